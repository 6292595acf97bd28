//! The ids that a process assigns.
//!
//! `ms-counter`. The counter of each millisecond begins at a random number, drawn when the log is opened or mended:
//! after a lost end, or with a clock that was set back, no id is assigned a second time.

use super::format;
use crate::ids::{BEGINNINGS, StreamId};

/// The counters of a millisecond begin below this, which leaves room for the entries of that millisecond.
const SALTS: u64 = BEGINNINGS - 100_000;

/// Where the counters of this process's ids begin.
#[derive(Debug, Clone, Copy)]
pub struct Salt {
    seq: u64,
    /// No id was assigned with it yet. The first one does not count on from the id before it: the next counter may have
    /// been assigned already, and lost.
    is_new: bool,
}

impl Salt {
    /// Draw a new one.
    pub fn draw(now: u64) -> Self {
        let mut bytes = [0; 8];
        // Without random bytes the clock tells two openings apart.
        if getrandom::fill(&mut bytes).is_err() {
            bytes = now.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        }
        Self { seq: u64::from_le_bytes(bytes) % SALTS, is_new: true }
    }

    /// The beginning of a log at this time: no entry has such an id.
    pub fn beginning(self, ms: u64) -> StreamId {
        StreamId { ms, seq: BEGINNINGS + self.seq % ((1 << 20) - BEGINNINGS) }
    }

    /// The id of the entry after `last`; `None` when the time does not fit into an id.
    pub fn next_id(&mut self, last: StreamId, now: u64) -> Option<StreamId> {
        let is_new = std::mem::take(&mut self.is_new);
        let id = if now > last.ms {
            StreamId { ms: now, seq: self.seq }
        } else if last.seq + 1 < BEGINNINGS && !is_new {
            StreamId { ms: last.ms, seq: last.seq + 1 }
        } else {
            StreamId { ms: last.ms + 1, seq: self.seq }
        };
        format::pack(id).map(|_| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    #[test]
    fn ids_go_up_whatever_the_clock_does() {
        for (last, now, is_new, expected) in [
            (id(5, 3), 6, false, id(6, 70)),
            (id(5, 3), 5, false, id(5, 4)),
            (id(5, 3), 5, true, id(6, 70)),
            (id(5, 3), 2, false, id(5, 4)),
            (id(5, 999_999), 5, false, id(6, 70)),
            (id(5, 1_000_007), 5, false, id(6, 70)),
            (id(5, 1_000_007), 9, false, id(9, 70)),
        ] {
            let mut salt = Salt { seq: 70, is_new };
            assert_eq!(salt.next_id(last, now), Some(expected), "{last} {now}");
            assert!(!salt.is_new);
        }
        assert_eq!(Salt { seq: 70, is_new: true }.next_id(id(5, 3), 1 << 43), None);
    }
}
