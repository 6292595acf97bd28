//! When heartbeats and stall checks are due: one queue of deadlines for all subscribers of a reader, so one timer.
//! What a heartbeat contains is decided in `reader/heartbeats.rs`.
//!
//! A deadline is not moved when a subscriber is written to; when it comes up, the subscriber says when it is
//! really due and is put back. That costs one entry per subscriber and no work on the delivery path.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::ids::SubscriberId;

/// Deadlines, soonest first.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(Duration, SubscriberId, usize)>>,
}

impl Deadlines {
    /// Check the subscriber again at `at`.
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

    /// Keep only the deadlines of subscribers that still exist.
    pub fn retain(&mut self, mut is_there: impl FnMut(SubscriberId, usize) -> bool) {
        self.heap.retain(|Reverse((_, subscriber, key))| is_there(*subscriber, *key));
    }
}

/// Deadlines are rounded down to a grid whose spacing is this part of the interval, so that those of thousands of
/// clients, which are hardly a millisecond apart, come due in groups that cost one wake-up each.
const PART: u32 = 256;
/// The widest spacing: a group is then a few clients of a thousand.
const APART: Duration = Duration::from_millis(100);

/// The grid for one interval. Four bytes, because every client stores one.
#[derive(Debug, Clone, Copy)]
struct Grid(NonZeroU32);

impl Grid {
    fn of(time: Duration) -> Self {
        let nanos = u32::try_from((time / PART).min(APART).as_nanos()).unwrap_or(0);
        Self(NonZeroU32::new(nanos).unwrap_or(NonZeroU32::MIN))
    }

    /// The last point of the grid up to `at`.
    fn before(self, at: Duration) -> Duration {
        let beyond = at.as_nanos() % u128::from(self.0.get());
        at.saturating_sub(Duration::from_nanos(u64::try_from(beyond).unwrap_or(0)))
    }
}

/// The deadline for something that is due `time` after `now`, grouped with others of a similar interval: never too
/// late, and at most a 256th too soon.
#[must_use]
pub fn look_after(now: Duration, time: Duration) -> Duration {
    Grid::of(time).before(now + time)
}

/// The largest part of a stream's time by which its authorization may end early, and the longest time.
const EARLY: (u32, Duration) = (20, Duration::from_secs(30));

/// When to end a stream whose authorization is valid for `left`: a little before that, and never later. Tokens that
/// were issued together expire together; their streams end apart.
#[must_use]
pub fn a_little_before(left: Duration, random: u64) -> Duration {
    let most = (left / EARLY.0).min(EARLY.1);
    left.saturating_sub(most * u32::try_from(random % 1001).unwrap_or(0) / 1000)
}

/// When one client gets its heartbeats.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    nanos: u64,
    grid: Grid,
}

impl Heartbeat {
    /// A client's own interval: between 75 % and 100 % of the hub's, so that a broadcast, after which all are
    /// silent from the same moment, is not followed by all heartbeats at the same moment.
    #[must_use]
    pub fn spread(longest: Duration, random: u64) -> Self {
        // 75.4 %, because rounding down to the grid takes up to 0.4 %.
        let thousandth = u32::try_from(754 + random % 247).unwrap_or(1000);
        let own = longest * thousandth / 1000;
        Self { nanos: u64::try_from(own.as_nanos()).unwrap_or(u64::MAX), grid: Grid::of(longest) }
    }

    /// The longest silence.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// When it is due for a client that was written to at `last`.
    #[must_use]
    pub fn after(&self, last: Duration) -> Duration {
        self.grid.before(last + Duration::from_nanos(self.nanos))
    }
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
            let last = Duration::from_micros(random * 7919);
            let silence = Heartbeat::spread(heartbeat, random).after(last).saturating_sub(last);
            assert!(silence <= heartbeat && silence >= heartbeat * 3 / 4, "{silence:?}");
        }
    }

    #[test]
    fn clients_that_are_due_at_almost_the_same_time_are_due_at_the_same_time() {
        let heartbeat = Duration::from_secs(15);
        let connected = |client: u64| Duration::from_millis(client * 7);
        let due = |client| Heartbeat::spread(heartbeat, client * 7919).after(connected(client));
        let moments: std::collections::BTreeSet<_> = (0..2000).map(due).collect();
        // From 11.25 s to 29 s after the first came, every 58.6 ms.
        assert!((200..=304).contains(&moments.len()), "{}", moments.len());
    }

    #[test]
    fn the_shortest_and_the_longest_times_have_a_grid() {
        for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX / 2] {
            for now in [Duration::ZERO, Duration::from_secs(1), Duration::MAX / 2] {
                let sooner = (now + time).checked_sub(look_after(now, time));
                assert!(sooner.is_some_and(|sooner| sooner <= APART));
            }
        }
    }

    #[test]
    fn an_authorization_ends_a_little_early_and_never_late() {
        for left in [Duration::from_nanos(1), Duration::from_secs(10), Duration::from_secs(86_400)] {
            let ends: Vec<_> = (0..2000).map(|random| a_little_before(left, random)).collect();
            let least = left.saturating_sub((left / 20).min(Duration::from_secs(30)));
            assert!(ends.iter().all(|end| (least..=left).contains(end)), "{left:?}");
            assert!(ends.contains(&left) && ends.contains(&least), "{left:?}");
        }
    }

    #[test]
    fn a_clients_interval_takes_no_more_than_a_time() {
        assert_eq!(size_of::<Option<Heartbeat>>(), size_of::<Duration>());
    }
}
