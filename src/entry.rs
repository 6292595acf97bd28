//! One event in the hub's order: its place, its target and its bytes, shared by log, history and queues.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::frame::Frame;
use crate::ids::{EventId, SubscriberId};
use crate::key::Key;
use crate::topic::{TopicId, TopicIds};

/// A place in the hub's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The sequence number.
    pub seq: u64,
    /// The id on the wire.
    pub id: EventId,
}

/// Who gets an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The subscribers of these topics, each once.
    Topics(TopicIds),
    /// Every subscriber that gets broadcasts.
    All,
    /// Every subscriber that is in a topic: the order breaks, for watchers of runs as well.
    Everyone,
    /// One subscriber.
    One(SubscriberId),
}

impl Target {
    /// The rings of history that keep an event with this target.
    #[must_use]
    pub fn rings(&self) -> &[TopicId] {
        match self {
            Self::Topics(topics) => topics,
            Self::All => &[TopicId::BROADCAST],
            Self::Everyone | Self::One(_) => &[],
        }
    }
}

/// An immutable event.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the hub's order if it carries an id. A client that has this id has everything of its topics up to
    /// here.
    pub seq: Option<u64>,
    /// The id in its frame.
    pub id: Option<EventId>,
    /// Who gets it.
    pub target: Target,
    /// When it was published, on the hub's clock.
    pub at: Duration,
    /// Its bytes.
    pub frame: Frame,
    /// Whether the application published it: clients in the same topics get the same. The hub's own events, and events
    /// for one client, are not.
    pub is_published: bool,
    /// The order breaks here: a running replay cannot go on.
    pub is_break: bool,
    /// How many rings of history hold it: it counts once in the hub-wide budget. Relaxed: changed and read with the
    /// hub locked; an atomic because entries are shared.
    rings: AtomicU32,
}

impl Entry {
    /// An entry that no ring holds.
    #[must_use]
    pub fn new(seq: Option<u64>, target: Target, at: Duration, frame: Frame) -> Self {
        Self {
            seq,
            id: None,
            target,
            at,
            frame,
            is_published: false,
            is_break: false,
            rings: AtomicU32::new(0),
        }
    }

    /// The entry with the id that its frame carries.
    #[must_use]
    pub fn named(self, id: Option<EventId>) -> Self {
        Self { id, ..self }
    }

    /// The entry as one that the application published.
    #[must_use]
    pub fn published(self) -> Self {
        Self { is_published: true, ..self }
    }

    /// The entry as one at which the order breaks, for everyone.
    #[must_use]
    pub fn breaking(self) -> Self {
        Self { is_break: true, target: Target::Everyone, ..self }
    }

    /// What it is the newest value of.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.frame.key()
    }

    /// Whether it makes an older entry obsolete for every subscriber: both are values of one key, and each topic
    /// of the older one gets the newer one too.
    #[must_use]
    pub fn supersedes(&self, older: &Self) -> bool {
        let covers = match (&self.target, &older.target) {
            (Target::One(newer), Target::One(older)) => newer == older,
            (Target::One(_), _) | (_, Target::One(_)) => false,
            (newer, older) => older.rings().iter().all(|topic| newer.rings().contains(topic)),
        };
        covers && self.key().is_some() && self.key() == older.key()
    }

    /// Bytes of the event on the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frame.sse().len()
    }

    /// Whether it has no bytes; never true of an event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn held_by(&self, rings: usize) {
        self.rings.store(u32::try_from(rings).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// One ring evicted it; true when it was the last.
    pub(crate) fn released(&self) -> bool {
        self.rings.fetch_sub(1, Ordering::Relaxed) == 1
    }

    pub(crate) fn is_held(&self) -> bool {
        self.rings.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn forget_rings(&self) {
        self.rings.store(0, Ordering::Relaxed);
    }
}
