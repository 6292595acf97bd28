//! The sockets for which a reactor's thread waits. Other threads add some while it does.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use super::signal::Heard;
use crate::descriptors::{NoFork, disown, no_fork, open_owned};

/// The token of the signal that wakes the thread.
pub const SIGNAL: Token = Token(usize::MAX);

/// What the thread waits for.
pub struct Sockets(Poll, Option<NoFork>);

impl Sockets {
    pub fn new(heard: &Heard) -> io::Result<Self> {
        let sockets = Self(open_owned(Poll::new)?, None);
        let heard = heard.descriptor();
        sockets.0.registry().register(&mut SourceFd(&heard), SIGNAL, Interest::READABLE)?;
        Ok(sockets)
    }

    /// Wait for events, at most for `timeout`.
    pub fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        self.0.poll(events, timeout)
    }

    /// The end that adds and removes sockets, also while the thread waits.
    pub fn registered(&self) -> io::Result<Registered> {
        Ok(Registered(open_owned(|| self.0.registry().try_clone())?, None))
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // Also when its thread could not be started, or panicked: a forked child would close whatever has this
        // number by then.
        self.1 = Some(no_fork());
        disown(self.0.as_raw_fd());
    }
}

/// Which sockets the thread waits for, by the numbers of their descriptors. The close of a socket takes it out.
pub struct Registered(Registry, Option<NoFork>);

impl Registered {
    /// Wait for a socket's input, and for its end.
    pub fn add(&self, socket: RawFd) -> io::Result<()> {
        self.0.register(&mut SourceFd(&socket), token(socket)?, Interest::READABLE)
    }

    /// Wait for its room, too.
    pub fn await_room(&self, socket: RawFd) -> io::Result<()> {
        self.0.reregister(&mut SourceFd(&socket), token(socket)?, Interest::READABLE | Interest::WRITABLE)
    }
}

fn token(socket: RawFd) -> io::Result<Token> {
    usize::try_from(socket).map(Token).map_err(io::Error::other)
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.1 = Some(no_fork());
        disown(self.0.as_raw_fd());
    }
}
