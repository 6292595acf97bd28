//! More than one process as one hub: what the hub knows of the broker that carries its events, and the broker
//! it has, Redis Streams.
//!
//! A hub with a broker delivers nothing of itself: what is published goes to the broker, and what comes back
//! from there, in the broker's order, is delivered, in the publishing process as in every other.

use std::sync::Arc;

use crate::broker::letter::Letter;
use crate::error::Result;
use crate::ids::{StreamId, SubscriberId};
use crate::outcome::{Outcome, ReportFailure};

pub mod letter;

/// What carries a hub's events between processes. Every method may be called from any thread, and none waits.
pub trait Broker: ReportFailure {
    /// Queue a letter.
    ///
    /// # Errors
    /// [`crate::error::Error::HubFull`] when too much waits already; nothing was queued.
    fn post(&self, letter: Letter) -> Result<Arc<Outcome>>;

    /// Find out where a newcomer begins (`asked` is the id it came back with, which this process does not
    /// know); the answer is given to [`crate::hub::Hub::settle`].
    fn settle(&self, subscriber: SubscriberId, asked: Option<StreamId>);

    /// Somebody came, went, or changed topics: presence is to be told.
    fn presence_changed(&self, change: PresenceChange);

    /// Whether what is published reaches the other processes now.
    fn is_connected(&self) -> bool;

    /// How many letters have no outcome yet.
    fn unsent(&self) -> usize;

    /// How many letters failed.
    fn failed(&self) -> u64;
}

/// A change of who is in which topic. An empty topic's name is the hub itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// The subscriber's public id.
    pub subscriber: Box<str>,
    /// The topics' names.
    pub topics: Vec<Arc<str>>,
    /// Whether it is in them now.
    pub is_in: bool,
}
