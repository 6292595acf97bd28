//! Reading from history for one client.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::entry::Entry;
use crate::topic::{TopicId, sorted};

/// How far a replay is in one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: TopicId,
    /// Everything kept up to here was read.
    pub(super) after: u64,
    /// The client knows that events up to here were lost. Values of keys may be left among them.
    pub(super) lost: u64,
}

impl Place {
    pub(super) fn behind(topic: TopicId, after: u64) -> Self {
        Self { topic, after, lost: 0 }
    }

    /// Nothing up to here is promised any more: it was read, or its loss is known.
    pub(super) fn settled(&self) -> u64 {
        self.after.max(self.lost)
    }
}

/// A client's replay: how far it is in each topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub(super) places: SmallVec<[Place; 4]>,
    pub(super) until: u64,
    /// Before its first page, the replay of a newcomer, or of a client whose gap was announced, may lose events up to
    /// here, unless the client was promised them.
    pub(super) unclaimed: u64,
    /// How many events it has given.
    pub(super) given: u32,
}

impl Replay {
    /// A number below everything that is replayed.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.places.iter().map(|place| place.after).min().unwrap_or(self.until)
    }

    /// The same for a client that is told that it is complete: whatever it loses from now on is a gap.
    #[must_use]
    pub fn promised(self) -> Self {
        Self { unclaimed: 0, ..self }
    }

    /// Whether it reads exactly these topics.
    #[must_use]
    pub fn covers(&self, topics: &[TopicId]) -> bool {
        let topics = sorted(topics);
        let is_among = |place: &Place| topics.binary_search(&place.topic).is_ok();
        self.places.len() == topics.len() && self.places.iter().all(is_among)
    }

    /// Whether the replay will read this entry, which is published now.
    #[must_use]
    pub fn reads(&self, entry: &Entry) -> bool {
        entry.seq.is_some() && self.places.iter().any(|place| entry.target.rings().contains(&place.topic))
    }

    /// The last number that it reads.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.until
    }

    /// How many events it has given so far, those included that came from elsewhere ([`Self::add`]).
    #[must_use]
    pub fn given(&self) -> u32 {
        self.given
    }

    /// Count events that came before it from a broker.
    pub fn add(&mut self, events: usize) {
        self.given = self.given.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
    }

    /// Extend the replay up to `until`.
    pub fn extend(&mut self, until: u64) {
        self.until = self.until.max(until);
    }
}

/// How much of its topics' past a client without an id gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// At most this many events of each topic.
    Last(usize),
    /// Everything that is kept.
    All,
}

/// One piece of a replay.
#[derive(Debug, Default)]
pub struct Page {
    /// In order, each once.
    pub entries: Vec<Arc<Entry>>,
    /// Events between the last piece and this one were evicted.
    pub lost: bool,
    /// This is the last piece.
    pub done: bool,
}
