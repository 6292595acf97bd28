//! The rate of a stream: how often a client is written to, and when events that are *held* for that are released.
//!
//! ```text
//! an event comes --- the client was not written to for an interval ---> it goes out at once
//!       |
//!       '--- it was ---> held; more may join it ---> all go out together when the interval is over
//! ```
//!
//! A held subscriber is not resumed when an event is published: that is what a rate saves. All subscribers of a reader
//! share one queue of release times, and so one timer. The times lie on a grid, so that thousands of clients, which
//! came at any moment, are released in a few groups: one wake-up for a group, and the clients of a group receive the
//! same events, which are then put together once for all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::SubscriberId;

/// Points of the grid in one interval. With more of them an event after the first is held for less long (up to an
/// interval and one part), with fewer the groups are larger.
const PARTS: u32 = 4;

/// The rate of one stream, and where it is in its interval.
#[derive(Debug, Clone)]
pub struct Pace {
    interval: Duration,
    /// The earliest time of the next write. On the grid, once there was one.
    next: Duration,
    /// When the consumer was resumed for what waits, until it takes that: it may come long after that time.
    released: Option<Duration>,
    /// Whether it is in the reader's [`Releases`].
    is_listed: bool,
}

impl Pace {
    /// At most one write in each `interval`; the first event goes out at once.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: Duration::ZERO, released: None, is_listed: false }
    }

    /// Whether events may be taken now.
    #[must_use]
    pub fn is_open(&self, now: Duration) -> bool {
        self.released.is_some() || now >= self.next
    }

    /// The consumer is resumed to take events.
    pub fn release(&mut self, now: Duration) {
        // A timer, or the event that comes next, is a little late. Counted from there, each interval would be longer
        // than the last, and the client would leave its group.
        let is_on_time = now.checked_sub(self.next).is_some_and(|late| late < self.part());
        self.released.get_or_insert(if is_on_time { self.next } else { now });
    }

    /// The consumer took what waited; with `holds`, that was something that a rate holds.
    pub fn take(&mut self, holds: bool, now: Duration) {
        self.release(now);
        let Some(since) = self.released.take() else { return };
        if holds {
            self.next = self.after(since + self.interval);
        }
    }

    /// Events are held until the time that is returned; `None` when the reader knows that.
    pub fn hold(&mut self) -> Option<Duration> {
        let is_new = !std::mem::replace(&mut self.is_listed, true);
        is_new.then_some(self.next)
    }

    /// The reader has taken it from its list, or is another one.
    pub fn unlist(&mut self) {
        self.is_listed = false;
    }

    /// The streams that are written to together: their interval, and the point of the grid in it.
    #[must_use]
    pub fn lane(&self) -> (Duration, u8) {
        let points = self.next.as_nanos() / self.part().as_nanos().max(1);
        (self.interval, u8::try_from(points % u128::from(PARTS)).unwrap_or(0))
    }

    fn part(&self) -> Duration {
        self.interval / PARTS
    }

    /// The first point of the grid from `at` on.
    fn after(&self, at: Duration) -> Duration {
        let part = self.part().as_nanos().max(1);
        let beyond = at.as_nanos() % part;
        let rest = if beyond == 0 { 0 } else { part - beyond };
        at + Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
    }
}

/// The subscribers of one reader for which events are held, by the time of their release.
#[derive(Debug, Default)]
pub struct Releases {
    groups: BTreeMap<Duration, Vec<(SubscriberId, usize)>>,
    len: usize,
}

impl Releases {
    /// Release the subscriber at `at`. True when nothing else is due sooner or at that time.
    pub fn add(&mut self, at: Duration, subscriber: SubscriberId, key: usize) -> bool {
        let is_soonest = self.next().is_none_or(|next| at < next);
        self.groups.entry(at).or_default().push((subscriber, key));
        self.len += 1;
        is_soonest
    }

    /// The next group that is due, if any.
    pub fn pop_due(&mut self, now: Duration) -> Option<Vec<(SubscriberId, usize)>> {
        let first = self.groups.first_entry().filter(|first| *first.key() <= now)?;
        let group = first.remove();
        self.len -= group.len();
        Some(group)
    }

    /// When the soonest group is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.groups.first_key_value().map(|(at, _)| *at)
    }

    /// How many subscribers are in it, some of which may be gone.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keep only those that still exist.
    pub fn retain(&mut self, mut is_there: impl FnMut(SubscriberId, usize) -> bool) {
        self.groups.retain(|_, group| {
            group.retain(|&(subscriber, key)| is_there(subscriber, key));
            !group.is_empty()
        });
        self.len = self.groups.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_goes_out_at_once_and_the_next_after_an_interval() {
        let mut pace = Pace::new(ms(200));
        assert!(pace.is_open(ms(1010)));
        pace.release(ms(1010));
        pace.take(true, ms(1090));
        assert!(!pace.is_open(ms(1249)));
        assert_eq!((pace.hold(), pace.hold()), (Some(ms(1250)), None), "on the grid, and listed once");
        assert!(pace.is_open(ms(1250)));
    }

    #[test]
    fn a_late_timer_delays_one_write_and_no_later_one() {
        let mut pace = Pace::new(ms(200));
        pace.release(ms(1000));
        pace.take(true, ms(1000));
        for n in 1..100 {
            pace.unlist();
            assert_eq!(pace.hold(), Some(ms(1000 + n * 200)));
            pace.release(ms(1000 + n * 200 + n % 50));
            pace.take(true, ms(1000 + n * 200 + 120));
        }
    }

    #[test]
    fn what_a_rate_does_not_hold_does_not_count() {
        let mut pace = Pace::new(ms(200));
        pace.release(ms(1000));
        pace.take(false, ms(1000));
        assert!(pace.is_open(ms(1001)));
        pace.release(ms(1001));
        pace.take(true, ms(1001));
        pace.release(ms(1100));
        pace.take(false, ms(1100));
        assert!(!pace.is_open(ms(1249)) && pace.is_open(ms(1250)), "as before");
    }

    #[test]
    fn clients_that_came_at_any_time_are_released_in_few_groups() {
        let mut releases = Releases::default();
        for n in 1..=200 {
            let mut pace = Pace::new(ms(200));
            pace.take(true, ms(1000 + n));
            let at = pace.hold().unwrap();
            assert!(at >= ms(1200 + n) && at <= ms(1250 + n));
            releases.add(at, SubscriberId(n), 0);
        }
        let mut groups = Vec::new();
        while let Some(group) = releases.pop_due(Duration::MAX) {
            groups.push(group.len());
        }
        assert_eq!(groups, [50; 4], "an interval has four points");
        assert!(releases.is_empty());
    }

    #[test]
    fn releases_know_the_soonest_and_forget_who_is_gone() {
        let mut releases = Releases::default();
        assert!(releases.add(ms(20), SubscriberId(1), 1));
        assert!(!releases.add(ms(20), SubscriberId(2), 2));
        assert!(!releases.add(ms(30), SubscriberId(3), 3));
        assert!(releases.add(ms(10), SubscriberId(4), 4));
        assert_eq!(releases.pop_due(ms(9)), None);
        releases.retain(|subscriber, _| subscriber != SubscriberId(1));
        assert_eq!((releases.len(), releases.next()), (3, Some(ms(10))));
        assert_eq!(releases.pop_due(ms(25)), Some(vec![(SubscriberId(4), 4)]));
        assert_eq!(releases.pop_due(ms(25)), Some(vec![(SubscriberId(2), 2)]));
        assert_eq!(releases.pop_due(ms(25)), None);
    }

    #[test]
    fn the_shortest_and_the_longest_intervals_have_a_grid() {
        for interval in [Duration::from_nanos(1), ms(10), Duration::from_secs(1000)] {
            let mut pace = Pace::new(interval);
            pace.take(true, Duration::from_secs(1 << 30));
            let since = pace.hold().unwrap().checked_sub(Duration::from_secs(1 << 30)).unwrap();
            assert!(since >= interval && since <= interval + interval / PARTS);
        }
    }
}
