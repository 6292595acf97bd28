//! The events that wait for one subscriber, and the policy where too many wait.

mod entries;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use self::entries::Entries;
use crate::entry::Entry;
use crate::key::Key;
use crate::stats::{Counters, count};

/// What to do when more than the capacity waits behind an unfinished write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// End the stream; the browser comes back with its last id and loses nothing.
    Disconnect,
    /// Drop the oldest events, and announce their number (`stream-lagged`).
    DropOldest,
    /// Drop new events, and announce their number (`stream-lagged`).
    DropNewest,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Events.
    pub events: usize,
    /// Bytes on the wire.
    pub bytes: usize,
}

/// How much room a queue has for one more event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Any number: nothing waits behind an unfinished write.
    Any,
    /// What its limit in bytes leaves.
    InBytes,
    /// What both limits leave.
    InAll,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The event waits.
    Queued,
    /// The event waits, in place of this many older values of its key.
    Superseded(u64),
    /// Events were dropped, the new one perhaps among them.
    Dropped {
        /// How many.
        events: u64,
        /// How many older values of its key the new event replaced.
        superseded: u64,
    },
    /// There is no room, and the policy is to disconnect.
    Overflow,
}

impl Pushed {
    /// Count the events that the client does not get.
    pub fn count(self, counters: &Counters) {
        let (dropped, superseded) = match self {
            Self::Queued | Self::Overflow => return,
            Self::Superseded(values) => (0, values),
            Self::Dropped { events, superseded } => (events, superseded),
        };
        count(&counters.dropped, dropped);
        count(&counters.superseded, superseded);
    }
}

/// A queue with fewer entries is searched for a key from end to end.
const FEW: usize = 16;

/// Positions in a queue, ascending.
type Positions = SmallVec<[usize; 1]>;

/// The entries of a long queue by their keys.
#[derive(Debug, Default)]
struct Index {
    /// A number for each entry; they rise from the front to the back.
    numbers: VecDeque<u64>,
    /// The numbers of the values of each key. By a keyed hash, because keys may come from users.
    values: HashMap<Key, SmallVec<[u64; 1]>>,
}

impl Index {
    fn of(entries: &Entries) -> Self {
        let mut index = Self::default();
        for entry in entries.iter() {
            index.append(entry);
        }
        index
    }

    fn append(&mut self, entry: &Entry) {
        let number = self.numbers.back().map_or(0, |newest| newest + 1);
        self.numbers.push_back(number);
        if let Some(key) = entry.key() {
            self.values.entry(key.clone()).or_default().push(number);
        }
    }

    fn positions(&self, key: &Key) -> Positions {
        let numbers = self.values.get(key).into_iter().flatten();
        numbers.filter_map(|number| self.numbers.binary_search(number).ok()).collect()
    }

    fn remove(&mut self, at: usize, entry: &Entry) {
        let number = self.numbers.remove(at);
        if let Some(key) = entry.key()
            && let Some(numbers) = self.values.get_mut(key)
        {
            numbers.retain(|&mut other| Some(other) != number);
            if numbers.is_empty() {
                self.values.remove(key);
            }
        }
    }
}

/// A subscriber's queue: references to shared entries, in order.
///
/// A value goes to the end, and older values of its key leave the queue ([`Entry::supersedes`]). So the order stays
/// the log's, and a client that has an id has everything before it, or something newer.
#[derive(Debug)]
pub struct Queue {
    entries: Entries,
    /// Only for a long queue with values.
    index: Option<Box<Index>>,
    bytes: usize,
    capacity: Capacity,
    policy: OverflowPolicy,
    /// Whether a value of a key has come since it was empty.
    has_values: bool,
    dropped_oldest: u64,
    dropped_newest: u64,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(capacity: Capacity, policy: OverflowPolicy) -> Self {
        Self {
            entries: Entries::default(),
            index: None,
            bytes: 0,
            capacity,
            policy,
            has_values: false,
            dropped_oldest: 0,
            dropped_newest: 0,
        }
    }

    /// Deliver an entry. The limits hold only for a queue that waits behind an unfinished write, so that a burst
    /// disconnects no healthy client.
    #[inline]
    pub fn push(&mut self, entry: &Arc<Entry>, room: Room) -> Pushed {
        // What nearly every event of a burst meets.
        if room == Room::Any && self.dropped_newest == 0 && entry.key().is_none() {
            self.append(entry);
            return Pushed::Queued;
        }
        self.push_within(entry, room)
    }

    #[inline(never)]
    fn push_within(&mut self, entry: &Arc<Entry>, room: Room) -> Pushed {
        // An entry behind a dropped one would carry the client's id over a gap that is announced only later. So
        // everything newer is dropped too until the queue is taken, which a replay may delay.
        let superseded = self.superseded_by(entry);
        if self.dropped_newest == 0 && self.has_room(entry, room, &superseded) {
            self.remove_all(&superseded);
            self.append(entry);
            return match superseded.len() {
                0 => Pushed::Queued,
                n => Pushed::Superseded(n as u64),
            };
        }
        match self.policy {
            OverflowPolicy::Disconnect => Pushed::Overflow,
            // A reset marker is never dropped: it already says that events are missing, so it replaces the whole queue.
            OverflowPolicy::DropNewest if entry.is_break => {
                let waiting = self.entries.len() as u64;
                self.start_over();
                self.append(entry);
                Pushed::Dropped { events: waiting, superseded: 0 }
            }
            OverflowPolicy::DropNewest => {
                self.dropped_newest += 1;
                Pushed::Dropped { events: 1, superseded: 0 }
            }
            OverflowPolicy::DropOldest => {
                let before = self.dropped_oldest;
                self.remove_all(&superseded);
                while !self.has_room(entry, room, &[]) {
                    let kept = usize::from(self.entries.front().is_some_and(|oldest| oldest.is_break));
                    if kept >= self.entries.len() {
                        break;
                    }
                    self.remove(kept);
                    self.dropped_oldest += 1;
                }
                self.append(entry);
                Pushed::Dropped { events: self.dropped_oldest - before, superseded: superseded.len() as u64 }
            }
        }
    }

    #[inline]
    fn append(&mut self, entry: &Arc<Entry>) {
        self.bytes += entry.len();
        self.has_values |= entry.key().is_some();
        if let Some(index) = &mut self.index {
            index.append(entry);
        }
        self.entries.push(entry.clone());
    }

    /// The positions of the values that `entry` makes obsolete.
    fn superseded_by(&mut self, entry: &Entry) -> Positions {
        let Some(key) = entry.key().filter(|_| !self.entries.is_empty()) else { return Positions::new() };
        if self.entries.len() < FEW && self.index.is_none() {
            let waiting = self.entries.iter().enumerate();
            return waiting.filter(|(_, older)| entry.supersedes(older)).map(|(at, _)| at).collect();
        }
        let index = self.index.get_or_insert_with(|| Box::new(Index::of(&self.entries)));
        let mut positions = index.positions(key);
        positions.retain(|at| self.entries.get(*at).is_some_and(|older| entry.supersedes(older)));
        positions
    }

    fn remove_all(&mut self, positions: &[usize]) {
        positions.iter().rev().for_each(|&at| self.remove(at));
    }

    fn remove(&mut self, at: usize) {
        let Some(entry) = self.entries.remove(at) else { return };
        self.bytes -= entry.len();
        if let Some(index) = &mut self.index {
            index.remove(at, &entry);
        }
    }

    /// If there is no room for `entry`, and a running replay will read it and all queued entries from history, empty
    /// the queue: the replay delivers them instead. True when it does.
    pub fn give_to_history(&mut self, entry: &Entry, room: Room, reads: impl Fn(&Entry) -> bool) -> bool {
        let is_whole = self.dropped_oldest == 0 && self.dropped_newest == 0;
        let given = is_whole
            && !self.has_room(entry, room, &[])
            && reads(entry)
            && self.entries.iter().all(|entry| reads(entry));
        if given {
            self.clear();
        }
        given
    }

    /// Whether there is room for `entry` in place of the entries at these positions. An event larger than the whole
    /// limit in bytes is let in alone: it was small enough to be published, and would never find more room than in an
    /// empty queue.
    fn has_room(&self, entry: &Entry, room: Room, replaced: &[usize]) -> bool {
        let freed = || replaced.iter().filter_map(|&at| self.entries.get(at)).map(|older| older.len());
        let in_bytes = || self.bytes - freed().sum::<usize>() + entry.len() <= self.capacity.bytes;
        let waiting = self.entries.len() - replaced.len();
        match room {
            _ if waiting == 0 => true,
            Room::Any => true,
            Room::InBytes => in_bytes(),
            Room::InAll => waiting < self.capacity.events && in_bytes(),
        }
    }

    /// Take the first entries, and the numbers of entries dropped before the first and behind the last. At least one is
    /// taken, and as many as have no more than `most` bytes; what was dropped behind the last is told with the last.
    pub fn take(&mut self, most: usize) -> (u64, impl Iterator<Item = Arc<Entry>>, u64) {
        let (mut count, mut bytes) = (self.entries.len(), self.bytes);
        if bytes > most {
            (count, bytes) = (0, 0);
            for entry in self.entries.iter() {
                if count > 0 && bytes + entry.len() > most {
                    break;
                }
                count += 1;
                bytes += entry.len();
            }
        }
        self.bytes -= bytes;
        self.index = None;
        self.has_values &= count < self.entries.len();
        let before = std::mem::take(&mut self.dropped_oldest);
        let after = if count == self.entries.len() { std::mem::take(&mut self.dropped_newest) } else { 0 };
        (before, self.entries.take(count), after)
    }

    /// Whether values of keys wait, or have waited since it was empty.
    #[must_use]
    pub fn has_values(&self) -> bool {
        self.has_values
    }

    /// Free the memory of a burst.
    pub fn shrink(&mut self) {
        self.entries.shrink();
    }

    /// Empty the queue.
    pub fn clear(&mut self) {
        self.entries = Entries::default();
        self.index = None;
        self.has_values = false;
        self.bytes = 0;
    }

    /// Empty the queue, and forget that entries were dropped.
    pub fn start_over(&mut self) {
        self.clear();
        self.dropped_oldest = 0;
        self.dropped_newest = 0;
    }

    /// Whether nothing waits and nothing was dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dropped_oldest == 0 && self.dropped_newest == 0
    }

    /// Whether as much waits as may wait behind an unfinished write.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity.events || self.bytes >= self.capacity.bytes
    }

    /// How many bytes wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
