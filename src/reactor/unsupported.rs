//! Stands in for reactors on Windows: streams stay with their server.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use super::{Listener, Socket};
use crate::hub::Hub;
use crate::identity::Identity;
use crate::ids::GroupId;
use crate::reader::Reader;

/// The error of a platform without reactors.
#[must_use]
pub fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "streams cannot be handed off on this platform")
}

/// A time of its thread.
#[derive(Debug, Clone, Copy)]
pub struct Turn(());

/// A running reactor; none can be made.
pub struct Reactor {
    /// Would deliver to its clients.
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

    /// The turn in which a newcomer is subscribed.
    #[must_use]
    pub fn turn(&self) -> Turn {
        match self.never {}
    }

    /// Take over a newcomer's socket.
    pub fn welcome(&self, _: Socket, _: &Arc<Identity>, _: Turn) {
        match self.never {}
    }

    /// Serve a subscriber that was closed from outside.
    pub fn resume(&self, _: usize) {
        match self.never {}
    }

    /// How many streams of a group have not ended.
    #[must_use]
    pub fn open(&self, _: GroupId) -> usize {
        match self.never {}
    }

    /// How many streams have not ended.
    #[must_use]
    pub fn open_in_all(&self) -> usize {
        match self.never {}
    }

    /// Close a group's connections at once.
    pub fn abort(&self, _: GroupId) {
        match self.never {}
    }

    /// End its thread.
    pub fn stop(&self) {
        match self.never {}
    }
}
