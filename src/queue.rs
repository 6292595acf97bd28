//! The events that wait for one subscriber, and the policy where too many wait.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::Entry;

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
    /// This many events were dropped, the new one perhaps among them.
    Dropped(u64),
    /// There is no room, and the policy is to disconnect.
    Overflow,
}

/// A subscriber's queue: references to shared entries, in order.
#[derive(Debug)]
pub struct Queue {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    capacity: Capacity,
    policy: OverflowPolicy,
    dropped_oldest: u64,
    dropped_newest: u64,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(capacity: Capacity, policy: OverflowPolicy) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, capacity, policy, dropped_oldest: 0, dropped_newest: 0 }
    }

    /// Deliver an entry. The limits hold only for a queue that waits behind an unfinished write, so that a burst
    /// disconnects no healthy client.
    pub fn push(&mut self, entry: &Arc<Entry>, room: Room) -> Pushed {
        // An entry behind a dropped one would carry the client's id over a gap that is announced only later. So
        // everything newer is dropped too until the queue is taken, which a replay may delay.
        if self.dropped_newest == 0 && self.has_room(entry, room) {
            self.bytes += entry.len();
            self.entries.push_back(entry.clone());
            return Pushed::Queued;
        }
        match self.policy {
            OverflowPolicy::Disconnect => Pushed::Overflow,
            // A reset marker is never dropped: it already says that events are missing, so it replaces the whole queue.
            OverflowPolicy::DropNewest if entry.is_break => {
                let waiting = self.entries.len() as u64;
                self.start_over();
                self.bytes = entry.len();
                self.entries.push_back(entry.clone());
                Pushed::Dropped(waiting)
            }
            OverflowPolicy::DropNewest => {
                self.dropped_newest += 1;
                Pushed::Dropped(1)
            }
            OverflowPolicy::DropOldest => {
                let before = self.dropped_oldest;
                while !self.has_room(entry, room) {
                    let kept = usize::from(self.entries.front().is_some_and(|oldest| oldest.is_break));
                    let Some(oldest) = self.entries.remove(kept) else { break };
                    self.bytes -= oldest.len();
                    self.dropped_oldest += 1;
                }
                self.bytes += entry.len();
                self.entries.push_back(entry.clone());
                Pushed::Dropped(self.dropped_oldest - before)
            }
        }
    }

    /// If there is no room for `entry`, and a running replay will read it and all queued entries from history, empty
    /// the queue: the replay delivers them instead. True when it does.
    pub fn give_to_history(&mut self, entry: &Entry, room: Room, reads: impl Fn(&Entry) -> bool) -> bool {
        let is_whole = self.dropped_oldest == 0 && self.dropped_newest == 0;
        let given = is_whole
            && !self.has_room(entry, room)
            && reads(entry)
            && self.entries.iter().all(|entry| reads(entry));
        if given {
            self.clear();
        }
        given
    }

    /// Whether there is room for `entry`. An event larger than the whole limit in bytes is let in alone: it was small
    /// enough to be published, and would never find more room than in an empty queue.
    fn has_room(&self, entry: &Entry, room: Room) -> bool {
        let in_bytes = || self.bytes + entry.len() <= self.capacity.bytes;
        match room {
            _ if self.entries.is_empty() => true,
            Room::Any => true,
            Room::InBytes => in_bytes(),
            Room::InAll => self.entries.len() < self.capacity.events && in_bytes(),
        }
    }

    /// Take all entries, and the numbers of entries dropped before the first and behind the last.
    pub fn take(&mut self) -> (u64, std::collections::vec_deque::Drain<'_, Arc<Entry>>, u64) {
        self.bytes = 0;
        let dropped = (std::mem::take(&mut self.dropped_oldest), std::mem::take(&mut self.dropped_newest));
        (dropped.0, self.entries.drain(..), dropped.1)
    }

    /// Free the memory of a burst.
    pub fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
    }

    /// Empty the queue.
    pub fn clear(&mut self) {
        self.entries = VecDeque::new();
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
