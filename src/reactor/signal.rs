//! How another thread wakes the reactor's: a pair of sockets, one end for each. mio's own waker would do, but it
//! hides its descriptor, and a forked child has to close that.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use mio::net::UnixStream;

use super::descriptors;

/// The end that wakes.
pub struct Signal(UnixStream);

/// The end that the reactor's thread polls.
pub struct Heard(UnixStream);

pub fn signal() -> io::Result<(Signal, Heard)> {
    let (set, heard) = UnixStream::pair()?;
    descriptors::own(set.as_raw_fd());
    descriptors::own(heard.as_raw_fd());
    Ok((Signal(set), Heard(heard)))
}

impl Signal {
    pub fn set(&self) {
        // A full socket is a signal that is set already.
        let _ = (&self.0).write(&[1]);
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        descriptors::disown(self.0.as_raw_fd());
    }
}

impl Heard {
    /// What the reactor's thread polls.
    pub fn source(&mut self) -> &mut UnixStream {
        &mut self.0
    }

    pub fn clear(&mut self) {
        let mut scratch = [0; 64];
        // A read that does not fill the buffer has emptied the socket.
        while matches!(self.0.read(&mut scratch), Ok(n) if n == scratch.len()) {}
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        descriptors::disown(self.0.as_raw_fd());
    }
}
