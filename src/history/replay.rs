//! What is read from history for one client.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::entry::Entry;
use crate::topic::TopicId;

/// Where a client's replay stands, topic by topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub(super) after: SmallVec<[(TopicId, u64); 4]>,
    pub(super) until: u64,
    /// While nothing was given yet to a client without a claim to where it begins, a newcomer or one whose gap
    /// was announced: what is evicted up to here is not missed.
    pub(super) unclaimed: u64,
}

impl Replay {
    /// The lowest point from which something is replayed: an id below everything that is to come.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.after.iter().map(|&(_, after)| after).min().unwrap_or(self.until)
    }

    /// Whether it is of exactly these topics.
    #[must_use]
    pub fn covers(&self, topics: &[TopicId]) -> bool {
        self.after.len() == topics.len() && self.after.iter().all(|(topic, _)| topics.contains(topic))
    }

    /// Whether an entry of now stands in history among what it reads.
    #[must_use]
    pub fn reads(&self, entry: &Entry) -> bool {
        entry.seq.is_some() && self.after.iter().any(|(topic, _)| entry.target.rings().contains(topic))
    }

    /// The last number that it reads.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Go on up to `until`.
    pub fn extend(&mut self, until: u64) {
        self.until = self.until.max(until);
    }
}

/// How much of its topics' past a client gets that names no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// At most this many events of each topic.
    Last(usize),
    /// Everything that is kept.
    All,
}

/// A piece of a replay.
#[derive(Debug, Default)]
pub struct Page {
    /// In order, each once.
    pub entries: Vec<Arc<Entry>>,
    /// Something between the last piece and this one was evicted meanwhile.
    pub lost: bool,
    /// There is nothing after this piece.
    pub done: bool,
}
