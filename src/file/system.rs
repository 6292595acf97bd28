//! The parts of the system that a log uses and a test must be able to break.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The clock, and writes.
pub trait System: Send + Sync {
    /// Milliseconds since 1970.
    fn now(&self) -> u64;

    /// Write at an offset of a file. Returns how many bytes were written.
    ///
    /// # Errors
    /// The system's error.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Wait until what was written to a file is on disk.
    ///
    /// # Errors
    /// The system's error.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// Write all of it. Returns how much was written, and the error if that is not all.
pub fn write_all(system: &dyn System, file: &File, bytes: &[u8], offset: u64) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        match system.write_at(file, &bytes[done..], offset + done as u64) {
            Ok(0) => return (done, Some(io::Error::from(io::ErrorKind::WriteZero))),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

/// The real system.
pub struct Machine;

impl System for Machine {
    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}
