//! The sockets for which a reactor's thread waits. What it waits for may be changed by the thread that works, whichever
//! that is.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use super::signal::Heard;
use crate::descriptors;

/// The token of the signal that wakes the thread.
pub const SIGNAL: Token = Token(usize::MAX);

/// What the thread waits for.
pub struct Sockets(Poll);

impl Sockets {
    pub fn new(heard: &Heard) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&heard.descriptor()), SIGNAL, Interest::READABLE)?;
        descriptors::own(poll.as_raw_fd());
        Ok(Self(poll))
    }

    /// Wait for events, at most for `timeout`.
    pub fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        self.0.poll(events, timeout)
    }

    /// The end that adds and removes sockets, also while the thread waits.
    pub fn registered(&self) -> io::Result<Registered> {
        let registry = self.0.registry().try_clone()?;
        descriptors::own(registry.as_raw_fd());
        Ok(Registered(registry))
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // Also when its thread could not be started, or panicked: a forked child would close whatever has this
        // number by then.
        descriptors::disown(self.0.as_raw_fd());
    }
}

/// Which sockets the thread waits for.
pub struct Registered(Registry);

impl Registered {
    pub fn add(&self, socket: RawFd, token: usize) -> io::Result<()> {
        self.0.register(&mut SourceFd(&socket), Token(token), Interest::READABLE | Interest::WRITABLE)
    }

    pub fn remove(&self, socket: RawFd) {
        let _ = self.0.deregister(&mut SourceFd(&socket));
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        descriptors::disown(self.0.as_raw_fd());
    }
}
