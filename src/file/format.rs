//! The bytes of a log: the head of a segment, and its records. Little endian.
//!
//! ```text
//! head    magic 8 | version u32 | crc u32 | key u32 | 0 u32 | base i64 | given u64
//! record  len u32 | check u32 | id i64 | before i64 | crc u32 | fields
//! field   name len u8 | name | value len u32 | value
//! ```
//! A record's `crc` covers its fields. `check` covers the rest of its first 28 bytes and its offset in the file: a
//! damaged length is not followed, and a block from another place is not read. Both checksums are seeded with the
//! segment's random key, so no event can contain bytes that read as a record. Ids are `ms << 20 | counter`.

use std::io;

use crc32fast::Hasher;

use crate::broker::letter::Arrived;
use crate::ids::StreamId;
use crate::stream_broker::envelope::{self, Fields, Found, LastTopic};

/// The version of this format.
pub const VERSION: u32 = 1;
/// Bytes of a segment's head.
pub const HEAD: usize = 40;
/// Bytes of a record before its fields.
pub const RECORD: usize = 28;

const MAGIC: [u8; 8] = *b"sse-hub\n";
const COUNTER_BITS: u32 = 20;

/// The id as a number; `None` when it does not fit: its time is after the year 2248, or its counter is not a log's.
#[must_use]
pub fn pack(id: StreamId) -> Option<i64> {
    let fits = id.ms < 1 << (63 - COUNTER_BITS) && id.seq < 1 << COUNTER_BITS;
    fits.then(|| i64::try_from(id.ms << COUNTER_BITS | id.seq).ok()).flatten()
}

/// Why [`pack`] gives no number for an id by the clock.
#[must_use]
pub fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the clock is past the year 2248, which ids cannot represent")
}

/// The id from which [`pack`] made this number.
#[must_use]
pub fn unpack(number: i64) -> Option<StreamId> {
    let number = u64::try_from(number).ok()?;
    Some(StreamId { ms: number >> COUNTER_BITS, seq: number & ((1 << COUNTER_BITS) - 1) })
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn id_at(bytes: &[u8], at: usize) -> Option<StreamId> {
    unpack(i64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The id before the segment's first record.
    pub base: StreamId,
    /// How many records the log had before this segment.
    pub given: u64,
    /// The seed of the checksums.
    pub key: u32,
}

/// Why the head of a segment cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Another version of sse-hub wrote it.
    Version(u32),
    /// It is damaged, or the file is not a segment.
    Damaged,
}

impl Head {
    /// The head's bytes; `None` when [`pack`] has no number for the id.
    #[must_use]
    pub fn write(&self) -> Option<[u8; HEAD]> {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.key.to_le_bytes());
        bytes[24..32].copy_from_slice(&pack(self.base)?.to_le_bytes());
        bytes[32..].copy_from_slice(&self.given.to_le_bytes());
        let crc = crc(VERSION, &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        Some(bytes)
    }

    /// Read a head.
    ///
    /// # Errors
    /// It cannot be read. The version is checked first: in another version, anything may follow it.
    pub fn read(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.get(..8) != Some(&MAGIC) {
            return Err(HeadError::Damaged);
        }
        let version = u32_at(bytes, 8).ok_or(HeadError::Damaged)?;
        if version != VERSION {
            return Err(HeadError::Version(version));
        }
        let read = || {
            let rest = bytes.get(16..HEAD)?;
            let given = u64::from_le_bytes(bytes.get(32..HEAD)?.try_into().ok()?);
            let head = Self { base: id_at(bytes, 24)?, given, key: u32_at(bytes, 16)? };
            (u32_at(bytes, 12)? == crc(version, rest)).then_some(head)
        };
        read().ok_or(HeadError::Damaged)
    }
}

/// The first bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the whole record.
    pub len: usize,
    /// The entry's id.
    pub id: StreamId,
    /// The id before it.
    pub before: StreamId,
    crc: u32,
}

/// What was found where a record should begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A record's first bytes; the rest may be missing.
    Header(Header),
    /// Fewer bytes than a record begins with.
    Short,
    /// Not a record.
    Damaged,
}

/// Fields as the bytes of a record; `None` when they do not fit into one.
#[must_use]
pub fn encode(fields: &Fields<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_to(&mut bytes, fields)?;
    Some(bytes)
}

/// Append fields as the bytes of a record; `None`, and nothing is appended, when they do not fit into one.
#[must_use]
pub fn encode_to(out: &mut Vec<u8>, fields: &Fields<'_>) -> Option<()> {
    let size = fields.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>();
    let is_short = |(name, _): &(&str, _)| u8::try_from(name.len()).is_ok();
    if u32::try_from(RECORD + size).is_err() || !fields.iter().all(is_short) {
        return None;
    }
    out.reserve(size);
    for (name, value) in fields {
        out.push(u8::try_from(name.len()).ok()?);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
        out.extend_from_slice(value);
    }
    Some(())
}

fn check(key: u32, offset: u64, head: &[u8]) -> u32 {
    let mut covered = [0; 8 + 4 + RECORD - 8];
    covered[..8].copy_from_slice(&offset.to_le_bytes());
    covered[8..12].copy_from_slice(&head[..4]);
    covered[12..].copy_from_slice(&head[8..RECORD]);
    crc(key, &covered)
}

/// Append the record of [`encode`]d fields that will be written at `offset` of its segment. Returns false when
/// [`pack`] has no number for an id.
#[must_use]
pub fn put(out: &mut Vec<u8>, key: u32, offset: u64, id: StreamId, before: StreamId, fields: &[u8]) -> bool {
    let Ok(len) = u32::try_from(RECORD + fields.len()) else { return false };
    let (Some(id), Some(before)) = (pack(id), pack(before)) else { return false };
    let mut head = [0; RECORD];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[8..16].copy_from_slice(&id.to_le_bytes());
    head[16..24].copy_from_slice(&before.to_le_bytes());
    head[24..].copy_from_slice(&crc(key, fields).to_le_bytes());
    let check = check(key, offset, &head);
    head[4..8].copy_from_slice(&check.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(fields);
    true
}

/// Read the first bytes of the record at `offset` of a segment.
#[must_use]
pub fn header(bytes: &[u8], key: u32, offset: u64) -> Parsed {
    let Some(head) = bytes.get(..RECORD) else { return Parsed::Short };
    let read = || {
        let len = usize::try_from(u32_at(head, 0)?).ok()?;
        let header = Header { len, id: id_at(head, 8)?, before: id_at(head, 16)?, crc: u32_at(head, 24)? };
        let is_sound =
            len >= RECORD && header.before < header.id && u32_at(head, 4)? == check(key, offset, head);
        is_sound.then_some(header)
    };
    read().map_or(Parsed::Damaged, Parsed::Header)
}

impl Header {
    /// The record as an entry of the log; without a letter when its fields are damaged or cannot be understood. `topics`
    /// holds the last topic that was read.
    #[must_use]
    pub fn arrived(&self, fields: &[u8], is_sound: bool, topics: &mut LastTopic) -> Arrived {
        let found = if is_sound { split(fields) } else { None };
        envelope::read_behind(self.id, Some(self.before), &found.unwrap_or_default(), topics)
    }

    /// Whether these are the fields that were written.
    #[must_use]
    pub fn is_sound(&self, fields: &[u8], key: u32) -> bool {
        crc(key, fields) == self.crc
    }
}

fn split(mut bytes: &[u8]) -> Option<Found<'_>> {
    let mut fields = Found::default();
    while let Some((&len, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(len))?;
        let (size, rest) = rest.split_at_checked(4)?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32_at(size, 0)?).ok()?)?;
        fields.add(name, value);
        bytes = rest;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    fn record() -> (Vec<u8>, usize) {
        let fields = encode(&envelope::gap()).unwrap();
        let mut out = Vec::new();
        assert!(put(&mut out, 7, 40, id(5, 2), id(5, 1), &fields));
        (out, fields.len())
    }

    #[test]
    fn ids_are_numbers_in_their_order() {
        let ids = [id(0, 0), id(1, 0), id(1, 999_999), id(1, (1 << 20) - 1), id(2, 0), id((1 << 43) - 1, 3)];
        let numbers: Vec<_> = ids.iter().map(|id| pack(*id).unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert!(ids.iter().zip(numbers).all(|(id, number)| unpack(number) == Some(*id)));
        assert_eq!(pack(id(1 << 43, 0)), None);
        assert_eq!(pack(id(1, 1 << 20)), None);
        assert_eq!(unpack(-1), None);
    }

    #[test]
    fn a_head_round_trips_and_no_wrong_byte_is_read() {
        let head = Head { base: id(1_764_000_000_000, 7), given: 12, key: 99 };
        let bytes = head.write().unwrap();
        assert_eq!(Head::read(&bytes), Ok(head));
        for at in 0..HEAD {
            let mut wrong = bytes;
            wrong[at] ^= 0x10;
            assert!(Head::read(&wrong).is_err(), "byte {at}");
            assert!(Head::read(&bytes[..at]).is_err(), "{at} bytes");
        }
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Head::read(&newer), Err(HeadError::Version(2)));
    }

    #[test]
    fn a_record_is_read_only_where_it_was_written() {
        let (bytes, fields) = record();
        assert_eq!(bytes.len(), RECORD + fields);
        let Parsed::Header(header) = header(&bytes, 7, 40) else { panic!() };
        assert_eq!((header.len, header.id, header.before), (bytes.len(), id(5, 2), id(5, 1)));
        assert!(header.is_sound(&bytes[RECORD..], 7));
        for (key, offset) in [(8, 40), (7, 41), (7, 40 + (1 << 32))] {
            assert_eq!(super::header(&bytes, key, offset), Parsed::Damaged);
        }
        for zeros in 0..2 * RECORD {
            assert!(!matches!(super::header(&vec![0; zeros], 7, 40), Parsed::Header(_)));
        }
    }

    #[test]
    fn no_wrong_byte_of_a_record_is_delivered() {
        let (bytes, _) = record();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1 << bit;
                match header(&wrong, 7, 40) {
                    Parsed::Header(header) => {
                        assert!(at >= RECORD, "byte {at}");
                        assert!(!header.is_sound(&wrong[RECORD..], 7), "byte {at}");
                    }
                    Parsed::Damaged => assert!(at < RECORD),
                    Parsed::Short => panic!(),
                }
            }
        }
    }

    #[test]
    fn fields_that_are_cut_are_none() {
        let fields = encode(&envelope::gap()).unwrap();
        let mut expected = Found::default();
        expected.add(b"v", b"1");
        expected.add(b"k", b"g");
        assert_eq!(split(&fields), Some(expected));
        for len in 1..fields.len() {
            let whole = len == 7;
            assert_eq!(split(&fields[..len]).is_some(), whole, "{len}");
        }
    }
}
