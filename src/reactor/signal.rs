//! How another thread wakes the reactor's: an eventfd, or a pair of sockets where there is none. mio's own waker would
//! do, but it hides its descriptor, and a forked child has to close that.
//!
//! A write to an eventfd costs its caller, who may be publishing, half of what a write to a socket does. There are few
//! of them: a bell rings once until it is heard, and a command signals only where the thread sleeps.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

#[cfg(target_os = "linux")]
use crate::descriptors::open_owned;
use crate::descriptors::{self, NoFork, no_fork};

/// The end that wakes.
pub struct Signal(Arc<End>);

/// The end that the reactor's thread polls.
pub struct Heard(Arc<End>);

/// One descriptor, which a forked child closes. An eventfd's two ends are the same.
struct End(File, Option<NoFork>);

impl End {
    /// One that is owned already.
    fn new(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self(File::from(fd), None))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.1 = Some(no_fork());
        descriptors::disown(self.0.as_raw_fd());
    }
}

#[cfg(target_os = "linux")]
pub fn signal() -> io::Result<(Signal, Heard)> {
    use std::os::fd::FromRawFd;
    let made = || {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let end = End::new(open_owned(made)?);
    Ok((Signal(end.clone()), Heard(end)))
}

#[cfg(not(target_os = "linux"))]
pub fn signal() -> io::Result<(Signal, Heard)> {
    let (set, heard) = {
        let _no_fork = no_fork();
        let (set, heard) = std::os::unix::net::UnixStream::pair()?;
        descriptors::own(set.as_raw_fd());
        descriptors::own(heard.as_raw_fd());
        (set, heard)
    };
    set.set_nonblocking(true)?;
    heard.set_nonblocking(true)?;
    Ok((Signal(End::new(set.into())), Heard(End::new(heard.into()))))
}

impl Signal {
    pub fn set(&self) {
        // Full means signalled already. A socket takes the eight bytes as well.
        let _ = (&self.0.0).write(&1u64.to_ne_bytes());
    }
}

impl Heard {
    /// What the reactor's thread polls.
    pub fn descriptor(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }

    pub fn clear(&self) {
        // An eventfd gives its eight bytes at once. A read that does not fill the buffer has emptied a socket.
        let mut scratch = [0; 64];
        while matches!((&self.0.0).read(&mut scratch), Ok(n) if n == scratch.len()) {}
    }
}
