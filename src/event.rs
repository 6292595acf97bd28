//! What an event is made of before it is encoded: ids and validated names.
//!
//! Pure: no clock, no lock, and no I/O but the random bytes of [`Epoch::random`].
//!
//! Data and comments need no check. The WHATWG grammar allows every character in them (`any-char`, NUL
//! included) and their line ends are the encoder's business, see [`crate::frame`].

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Longest id that is looked at, in bytes. What a client sends back is not ours to trust.
pub const MAX_ID_BYTES: usize = 128;

/// Longest epoch, in bytes.
pub const MAX_EPOCH_BYTES: usize = 16;

/// Longest text of an [`EventId`], in bytes: the epoch, the hyphen, the digits of a `u64`.
pub const MAX_EVENT_ID_LEN: usize = MAX_EPOCH_BYTES + 1 + 20;

/// Bytes of a value shown in an error message.
const SHOWN_BYTES: usize = 100;

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
    /// When the operating system has no random bytes to give.
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
        Self::parse(itoa::Buffer::new().format(number))
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

    /// Writes the text to the start of `out` and gives its length.
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

/// The hub's rule for the name of an event that a user publishes.
///
/// # Errors
/// [`Error::InvalidEvent`] for an empty name, a control character (CR, LF and NUL are some), and the names
/// that mean something else to a client: `open` and `error`, which `EventSource` fires itself, and
/// `stream-*`, which are the hub's own.
pub fn check_event_type(name: &str) -> Result<()> {
    let refuse = |rule: &str| Err(Error::InvalidEvent(format!("event {} {rule}", shown(name))));
    if name.is_empty() {
        return refuse("must not be empty; leave it out for a message");
    }
    if let Some(found) = name.chars().find(|found| found.is_control()) {
        return refuse(&format!("must not contain control characters, found {found:?}"));
    }
    if name == "open" || name == "error" {
        return refuse("is fired by EventSource itself; use another name");
    }
    if name.starts_with("stream-") {
        return refuse("is reserved: names that start with stream- are the hub's own");
    }
    Ok(())
}

/// A value as an error message shows it: quoted, and cut when it is long.
pub(crate) fn shown(value: &str) -> String {
    if value.len() <= SHOWN_BYTES {
        return format!("{value:?}");
    }
    let cut = (0..=SHOWN_BYTES).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
    format!("{:?}... ({} bytes)", &value[..cut], value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn event_types() {
        for name in ["tick", "message", "opened", "stream", "streams-x", "a b", " a", "é", "a:b", "Open"] {
            assert_eq!(check_event_type(name), Ok(()), "{name:?}");
        }
        for name in ["", "a\rb", "a\nb", "a\0b", "a\tb", "\u{7f}", "\u{85}", "open", "error", "stream-reset"]
        {
            let Err(Error::InvalidEvent(text)) = check_event_type(name) else { panic!("{name:?} was taken") };
            assert!(text.contains(&format!("{name:?}")), "{text}");
        }
    }

    #[test]
    fn errors_cut_long_values() {
        let text = shown(&"é".repeat(1000));
        assert!(text.len() < 200, "{text}");
        assert!(text.ends_with("(2000 bytes)"), "{text}");
    }
}
