//! Who has been silent too long: one queue of deadlines for all subscribers of a reader, so one timer.
//!
//! A deadline is not moved when a subscriber is written to; when it comes up, the subscriber says when it is
//! really due and is put back. That is one entry a subscriber and no work on the delivery path.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::entry::SubscriberId;

/// Deadlines, soonest first.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Duration, SubscriberId, usize)>>,
}

impl Deadlines {
    /// Look at the subscriber again at `at`.
    pub fn add(&mut self, at: Duration, subscriber: SubscriberId, key: usize) {
        self.heap.push(Reverse((at, subscriber, key)));
    }

    /// The next one that is due, if any.
    pub fn pop_due(&mut self, now: Duration) -> Option<(SubscriberId, usize)> {
        let Reverse((at, subscriber, key)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some((subscriber, key))
    }

    /// When the soonest is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Keep only those of subscribers that are still there.
    pub fn retain(&mut self, mut is_there: impl FnMut(SubscriberId, usize) -> bool) {
        self.heap.retain(|Reverse((_, subscriber, key))| is_there(*subscriber, *key));
    }
}

/// A client's own heartbeat interval: between 75 % and 100 % of the hub's, so that a broadcast, after which
/// all are silent from the same moment, is not followed by all heartbeats at the same moment.
#[must_use]
pub fn spread(heartbeat: Duration, random: u64) -> Duration {
    let thousandth = u32::try_from(750 + random % 251).unwrap_or(1000);
    heartbeat * thousandth / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_comes_first_and_only_when_due() {
        let mut deadlines = Deadlines::default();
        let second = Duration::from_secs(1);
        deadlines.add(second * 2, SubscriberId(2), 0);
        deadlines.add(second, SubscriberId(1), 1);
        assert_eq!(deadlines.pop_due(Duration::ZERO), None);
        assert_eq!(deadlines.next(), Some(second));
        assert_eq!(deadlines.pop_due(second * 3), Some((SubscriberId(1), 1)));
        assert_eq!(deadlines.pop_due(second * 3), Some((SubscriberId(2), 0)));
        assert_eq!(deadlines.pop_due(second * 3), None);
    }

    #[test]
    fn the_spread_never_makes_silence_longer() {
        let heartbeat = Duration::from_secs(15);
        for random in 0..1000 {
            let own = spread(heartbeat, random);
            assert!(own <= heartbeat && own >= heartbeat * 3 / 4, "{own:?}");
        }
    }
}
