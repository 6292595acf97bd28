//! What waits for one subscriber, and what happens when it is too much.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::Entry;

/// What to do when more waits behind an unfinished write than a subscriber may have waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// End the stream; the browser comes back with its last id and loses nothing.
    Disconnect,
    /// Drop what has waited longest, and say how much (`stream-lagged`).
    DropOldest,
    /// Drop what is new, and say how much (`stream-lagged`).
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
    /// It waits.
    Queued,
    /// It waits, or not, and this many were dropped.
    Dropped(u64),
    /// There is no room and the policy is to disconnect.
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

    /// Put an entry at the end. The limits hold only where the queue waits behind an unfinished write, so that a
    /// burst never cuts a healthy client.
    pub fn push(&mut self, entry: &Arc<Entry>, room: Room) -> Pushed {
        // Nothing gets past one that was dropped: its id would carry the client over a gap it is told of later.
        // So until the queue is taken, which a replay may put off, what is newer is dropped too.
        if self.dropped_newest == 0 && self.has_room(entry, room) {
            self.bytes += entry.len();
            self.entries.push_back(entry.clone());
            return Pushed::Queued;
        }
        match self.policy {
            OverflowPolicy::Disconnect => Pushed::Overflow,
            // That nobody knows what is missing is never among what is missing, and covers all that was dropped.
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

    /// If there is no room for `entry`, and a replay that is under way reads it and all that waits from history,
    /// let go of everything: the replay takes it over. True when it does.
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

    /// Room for one more. An event larger than the whole limit in bytes is let in alone: it was small enough
    /// to be published, and refusing it could never succeed later.
    fn has_room(&self, entry: &Entry, room: Room) -> bool {
        let in_bytes = || self.bytes + entry.len() <= self.capacity.bytes;
        match room {
            _ if self.entries.is_empty() => true,
            Room::Any => true,
            Room::InBytes => in_bytes(),
            Room::InAll => self.entries.len() < self.capacity.events && in_bytes(),
        }
    }

    /// Take everything, with how many were dropped before the first and after the last.
    pub fn take(&mut self) -> (u64, std::collections::vec_deque::Drain<'_, Arc<Entry>>, u64) {
        self.bytes = 0;
        let dropped = (std::mem::take(&mut self.dropped_oldest), std::mem::take(&mut self.dropped_newest));
        (dropped.0, self.entries.drain(..), dropped.1)
    }

    /// Give the memory of a burst back.
    pub fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
    }

    /// Drop everything.
    pub fn clear(&mut self) {
        self.entries = VecDeque::new();
        self.bytes = 0;
    }

    /// Drop everything, and forget that anything was dropped.
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
