//! The ids of epochs, events, broker streams, subscribers and readers: values, and how each is written and parsed.
//!
//! Pure: no clock, no lock, and no I/O but random bytes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, shown};

/// Longest id that is parsed, in bytes. What a client sends back cannot be trusted.
pub const MAX_ID_BYTES: usize = 128;

/// Longest epoch, in bytes.
pub const MAX_EPOCH_BYTES: usize = 16;

/// Longest text of an [`EventId`], in bytes: the epoch, the hyphen, the digits of a `u64`.
pub const MAX_EVENT_ID_LEN: usize = MAX_EPOCH_BYTES + 1 + 20;

/// The lifetime of a hub: fresh at each start, so that an id from an earlier life is recognised.
///
/// One to sixteen bytes of `[a-z0-9]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    bytes: [u8; MAX_EPOCH_BYTES],
    len: u8,
}

impl Epoch {
    /// A new epoch of ten random characters (51 bits).
    ///
    /// # Panics
    /// When the operating system cannot provide random bytes.
    #[must_use]
    pub fn random() -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        const LEN: usize = 10;
        let mut seed = [0_u8; 8];
        getrandom::fill(&mut seed).expect("the operating system gives random bytes");
        let mut rest = u64::from_le_bytes(seed);
        let mut bytes = [0; MAX_EPOCH_BYTES];
        for byte in &mut bytes[..LEN] {
            *byte = DIGITS[(rest % 36) as usize];
            rest /= 36;
        }
        Self { bytes, len: 10 }
    }

    /// Reads an epoch; `None` when it is not 1 to 16 bytes of `[a-z0-9]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let given = text.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
        if given.is_empty() || given.len() > MAX_EPOCH_BYTES || !given.iter().all(plain) {
            return None;
        }
        let mut bytes = [0; MAX_EPOCH_BYTES];
        bytes[..given.len()].copy_from_slice(given);
        Some(Self { bytes, len: u8::try_from(given.len()).ok()? })
    }

    /// The epoch written as this number; `None` when it has more than sixteen digits.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(number).as_bytes();
        let mut bytes = [0; MAX_EPOCH_BYTES];
        bytes.get_mut(..digits.len())?.copy_from_slice(digits);
        Some(Self { bytes, len: u8::try_from(digits.len()).ok()? })
    }

    /// The text of the epoch.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl FromStr for Epoch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| {
            Error::InvalidOption(format!(
                "epoch must be 1 to {MAX_EPOCH_BYTES} characters of a-z and 0-9, got {}",
                shown(text)
            ))
        })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.as_str())
    }
}

/// The id of an event: the hub's epoch and a sequence number of that epoch, written `k3f9x2-1042`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    /// The hub's life the event belongs to.
    pub epoch: Epoch,
    /// The event's place in the one order of that life.
    pub seq: u64,
}

impl EventId {
    /// Reads the id a client sent back; `None` for anything that [`EventId`] would not have written itself,
    /// such as a leading zero or a sign.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_ID_BYTES {
            return None;
        }
        let (epoch, digits) = text.split_once('-')?;
        let canonical = match digits.as_bytes() {
            [b'0'] => true,
            [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        if !canonical {
            return None;
        }
        Some(Self { epoch: Epoch::parse(epoch)?, seq: digits.parse().ok()? })
    }

    /// Writes the text to the start of `out` and returns its length.
    pub(crate) fn write_to(self, out: &mut [u8; MAX_EVENT_ID_LEN]) -> usize {
        let epoch = self.epoch.as_bytes();
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(self.seq).as_bytes();
        let len = epoch.len() + 1 + digits.len();
        out[..epoch.len()].copy_from_slice(epoch);
        out[epoch.len()] = b'-';
        out[epoch.len() + 1..len].copy_from_slice(digits);
        len
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// An id with this counter, or a greater one, belongs to no entry but is a stream's beginning: no million entries are
/// written within a millisecond.
pub const BEGINNINGS: u64 = 1_000_000;

/// The id of an entry of a stream: milliseconds and a counter within them (Redis Streams, "Entry IDs").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId {
    /// Milliseconds since 1970, by the broker's clock.
    pub ms: u64,
    /// Counter of the entries of one millisecond.
    pub seq: u64,
}

impl StreamId {
    /// Reads an id as the broker writes it; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_event_id(EventId::parse(text)?)
    }

    /// Whether it is before the first entry of any stream that was not given a beginning of its own: it does not tell
    /// which of these streams is meant.
    #[must_use]
    pub fn is_any_beginning(self) -> bool {
        self == Self::default()
    }

    pub(crate) fn from_event_id(id: EventId) -> Option<Self> {
        let ms: u64 = id.epoch.as_str().parse().ok()?;
        // Not another spelling of the id, such as one with leading zeros.
        (Epoch::from_number(ms)? == id.epoch).then_some(Self { ms, seq: id.seq })
    }

    /// Whether it is before the first entry of a stream.
    #[must_use]
    pub fn is_beginning(self) -> bool {
        self.seq >= BEGINNINGS || self.is_any_beginning()
    }

    /// The same as an event's id; `None` for a time so far away that it has more digits than fit into an id.
    #[must_use]
    pub fn event_id(self) -> Option<EventId> {
        Some(EventId { epoch: Epoch::from_number(self.ms)?, seq: self.seq })
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A subscriber's number, unique in its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(pub u64);

impl SubscriberId {
    /// 64 random bits: the id cannot be guessed, and spreads what the subscribers do at certain times.
    ///
    /// # Panics
    /// When the system gives no random numbers.
    #[must_use]
    pub fn random() -> Self {
        Self(getrandom::u64().expect("the system gives random numbers"))
    }

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

    /// The number behind a public id; `None` for any other text.
    #[must_use]
    pub fn from_public(name: &str) -> Option<Self> {
        let id = Self(u64::from_str_radix(name.strip_prefix("c-")?, 36).ok()?);
        // Not another spelling of it.
        (*id.public() == *name).then_some(id)
    }
}

/// `c-` and the 13 digits that a `u64` has in base 36.
const PUBLIC_ID_BYTES: usize = 15;

/// A subscriber's public id, stored inline: there may be many thousands.
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

/// A reader's number, unique in its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// A group of subscribers that end together: those of one server, for example. The number is the caller's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct GroupId(pub u64);

impl GroupId {
    /// No group: a stream that goes through its server ends with its own response.
    pub const NONE: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    #[test]
    fn ids_round_trip() {
        for seq in [0, 1, 9, 10, 1042, u64::MAX] {
            for epoch in ["a", "k3f9x2", "zzzzzzzzzzzzzzzz"] {
                let id = EventId { epoch: Epoch::parse(epoch).unwrap(), seq };
                let text = id.to_string();
                assert_eq!(text, format!("{epoch}-{seq}"));
                assert_eq!(EventId::parse(&text), Some(id));
                let mut out = [0; MAX_EVENT_ID_LEN];
                let len = id.write_to(&mut out);
                assert_eq!(&out[..len], text.as_bytes());
            }
        }
    }

    #[test]
    fn foreign_ids_are_not_read() {
        let long = format!("{}-1", "a".repeat(17));
        let huge = format!("a-{}", "1".repeat(200));
        for text in [
            "",
            "-",
            "a",
            "a-",
            "-1",
            "a-01",
            "a-+1",
            "a--1",
            "a-1 ",
            " a-1",
            "A-1",
            "a_b-1",
            "a-1-1",
            "é-1",
            "a-18446744073709551616",
            "a-١",
            &long,
            &huge,
        ] {
            assert_eq!(EventId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn random_epochs_are_valid_and_differ() {
        let first = Epoch::random();
        assert_eq!(Epoch::parse(first.as_str()), Some(first));
        assert_eq!(first.as_str().len(), 10);
        assert_ne!(first, Epoch::random());
    }

    #[test]
    fn a_streams_ids_round_trip() {
        for id in [id(0, 0), id(1_732_170_000_000, 5), id(9_999_999_999_999_999, u64::MAX)] {
            assert_eq!(StreamId::parse(&id.to_string()), Some(id));
            assert_eq!(id.event_id().unwrap().to_string(), id.to_string());
        }
        for text in ["", "1", "1-", "-1", "01-1", "1-01", "a-1", "1-1-1", "k3f9x2-1042"] {
            assert_eq!(StreamId::parse(text), None, "{text:?}");
        }
        assert_eq!(id(u64::MAX, 0).event_id(), None, "more digits than an id has room for");
    }

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
