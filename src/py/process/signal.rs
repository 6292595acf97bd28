//! The descriptor by which any thread wakes an event loop: an eventfd, or a socket pair where there is none.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use pyo3::intern;
use pyo3::prelude::*;

use super::context::empty_context;

/// A descriptor that becomes readable when it is signalled.
#[derive(Debug)]
pub struct Signal {
    reader: File,
    #[cfg(not(target_os = "linux"))]
    writer: File,
}

impl Signal {
    /// A new one, not signalled.
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        use std::os::fd::{FromRawFd, OwnedFd};
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and has no other owner.
        Ok(Self { reader: File::from(unsafe { OwnedFd::from_raw_fd(fd) }) })
    }

    /// A new one, not signalled.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        use std::os::fd::OwnedFd;
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader: File::from(OwnedFd::from(reader)), writer: File::from(OwnedFd::from(writer)) })
    }

    /// Make `event_loop` call the reader's `_drain` whenever it is readable. May be called from any thread; `is_here`
    /// says that it is the loop's own.
    pub fn watch(
        &self,
        event_loop: &Bound<'_, PyAny>,
        reader: &Bound<'_, PyAny>,
        is_here: bool,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let drain = reader.getattr(intern!(py, "_drain"))?;
        let add_reader = event_loop.getattr(intern!(py, "add_reader"))?;
        let run = empty_context(py)?.getattr(intern!(py, "run"))?;
        let fd = self.reader.as_raw_fd();
        if is_here {
            run.call1((add_reader, fd, drain)).map(drop)
        } else {
            // Only a loop's own thread may change what it watches.
            let soon = intern!(py, "call_soon_threadsafe");
            event_loop.call_method1(soon, (run, add_reader, fd, drain)).map(drop)
        }
    }

    /// Stop watching, on the loop's own thread.
    pub fn unwatch(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        event_loop
            .call_method1(intern!(event_loop.py(), "remove_reader"), (self.reader.as_raw_fd(),))
            .map(drop)
    }

    /// Make it unreadable again.
    pub fn clear(&self) {
        // An eventfd returns its 8 bytes at once; of a socket pair at most one byte is ever unread, because a
        // bell rings once until it is heard. It may be empty already.
        let _ = (&self.reader).read(&mut [0; 8]);
    }

    /// Make it readable.
    pub fn set(&self) {
        // Full means readable already.
        #[cfg(target_os = "linux")]
        let _ = (&self.reader).write(&1u64.to_ne_bytes());
        #[cfg(not(target_os = "linux"))]
        let _ = (&self.writer).write(&[1]);
    }
}
