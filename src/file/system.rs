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
}
