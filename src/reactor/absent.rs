//! Where reactors cannot be had (Windows): streams stay with their server.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use super::{Listener, Socket};
use crate::hub::Hub;
use crate::identity::Identity;
use crate::reader::Reader;

/// Why there is none.
#[must_use]
pub fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "streams cannot be handed off on this platform")
}

/// A running reactor: there is none.
pub struct Reactor {
    /// What would deliver to its clients.
    pub reader: Arc<Reader>,
    never: Infallible,
}

impl Reactor {
    /// Start the thread.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: Arc<Hub>, _: Box<dyn Listener>) -> io::Result<Self> {
        Err(unsupported())
    }

    /// Take over a client's socket.
    pub fn adopt(&self, _: Socket, _: Arc<Identity>) {
        match self.never {}
    }

    /// Let a subscriber that was closed from outside take what is left.
    pub fn resume(&self, _: usize) {
        match self.never {}
    }

    /// How many streams of a server have not ended.
    #[must_use]
    pub fn open(&self, _: u64) -> usize {
        match self.never {}
    }

    /// How many streams have not ended.
    #[must_use]
    pub fn open_in_all(&self) -> usize {
        match self.never {}
    }

    /// Close what is left of a server's connections, as they are.
    pub fn abort(&self, _: u64) {
        match self.never {}
    }

    /// End its thread.
    pub fn stop(&self) {
        match self.never {}
    }
}
