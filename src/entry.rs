//! One event in the hub's order: its place, its audience and its bytes. What log, history and queues share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::event::EventId;
use crate::frame::Frame;
use crate::topic::{TopicId, TopicIds};

/// A subscriber's number, unique in its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(pub u64);

impl SubscriberId {
    /// The id as the application and other processes see it.
    #[must_use]
    pub fn public(self) -> PublicId {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut bytes = [0; PUBLIC_ID_BYTES];
        let mut at = bytes.len();
        let mut rest = self.0;
        while rest > 0 || at == bytes.len() {
            at -= 1;
            bytes[at] = DIGITS[usize::try_from(rest % 36).unwrap_or(0)];
            rest /= 36;
        }
        bytes[at - 2..at].copy_from_slice(b"c-");
        PublicId { bytes, start: u8::try_from(at - 2).unwrap_or(0) }
    }

    /// The number behind a public id; `None` for what is none.
    #[must_use]
    pub fn from_public(name: &str) -> Option<Self> {
        let id = Self(u64::from_str_radix(name.strip_prefix("c-")?, 36).ok()?);
        // Not another spelling of it.
        (*id.public() == *name).then_some(id)
    }
}

/// `c-` and the 13 digits that a `u64` has in base 36.
const PUBLIC_ID_BYTES: usize = 15;

/// A subscriber's public id, in place: there may be many thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicId {
    bytes: [u8; PUBLIC_ID_BYTES],
    start: u8,
}

impl std::ops::Deref for PublicId {
    type Target = str;

    fn deref(&self) -> &str {
        str::from_utf8(&self.bytes[usize::from(self.start)..]).unwrap_or_default()
    }
}

/// A place in the hub's order, and what the wire calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The number.
    pub seq: u64,
    /// The id.
    pub id: EventId,
}

/// Who gets an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The subscribers of these topics, each once.
    Topics(TopicIds),
    /// Every subscriber.
    All,
    /// One subscriber.
    One(SubscriberId),
}

impl Target {
    /// The rings of history that keep what goes to this target.
    #[must_use]
    pub fn rings(&self) -> &[TopicId] {
        match self {
            Self::Topics(topics) => topics,
            Self::All => &[TopicId::BROADCAST],
            Self::One(_) => &[],
        }
    }
}

/// An immutable event, shared by everything that still has to deliver or replay it.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the hub's order if it carries an id. A client that has this id has seen everything of
    /// its topics up to here.
    pub seq: Option<u64>,
    /// The same as the wire says it: what its frame carries.
    pub id: Option<EventId>,
    /// Who gets it.
    pub target: Target,
    /// When it was published, on the hub's clock.
    pub at: Duration,
    /// Its bytes.
    pub frame: Frame,
    /// What was before does not lead up to it: a replay that is under way has nothing to go on with.
    pub is_break: bool,
    /// How many rings of history hold it: it counts once in the hub-wide budget.
    rings: AtomicU32,
}

impl Entry {
    /// An entry no ring holds yet.
    #[must_use]
    pub fn new(seq: Option<u64>, target: Target, at: Duration, frame: Frame) -> Self {
        Self { seq, id: None, target, at, frame, is_break: false, rings: AtomicU32::new(0) }
    }

    /// The same with the id that its frame carries.
    #[must_use]
    pub fn named(self, id: Option<EventId>) -> Self {
        Self { id, ..self }
    }

    /// The same, where the order goes on somewhere else.
    #[must_use]
    pub fn breaking(self) -> Self {
        Self { is_break: true, ..self }
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

    /// One ring lets go; true when it was the last.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_ids_round_trip() {
        for number in [0, 1, 35, 36, 1_234_567, u64::MAX] {
            let name = SubscriberId(number).public();
            assert!(name.starts_with("c-"), "{}", &*name);
            assert_eq!(SubscriberId::from_public(&name), Some(SubscriberId(number)));
        }
        assert_eq!(&*SubscriberId(0).public(), "c-0");
        for name in ["", "c-", "c-00", "c-A", "c-+1", "x-1", "c-zzzzzzzzzzzzzzzz"] {
            assert_eq!(SubscriberId::from_public(name), None, "{name:?}");
        }
    }
}
