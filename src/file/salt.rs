//! The ids that a process gives.
//!
//! `ms-counter`. The counter of each millisecond begins at a random number, drawn when the log is opened or mended:
//! after a lost end, or with a clock that was set back, no id is given a second time.

use super::format;
use crate::ids::{BEGINNINGS, StreamId};

/// Counters of a millisecond begin below this: there is room for the entries of a millisecond behind it.
const SALTS: u64 = BEGINNINGS - 100_000;

/// Where the counters of this process's ids begin.
#[derive(Debug, Clone, Copy)]
pub struct Salt {
    seq: u64,
    /// No id was given with it yet. The first one goes on behind no other id: that one may have been given, and lost.
    is_new: bool,
}

impl Salt {
    /// The id for what follows `last`; `None` when the time has no room in one.
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
