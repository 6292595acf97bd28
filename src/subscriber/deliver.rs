//! Delivering events to a subscriber's queue, and its place at a reader.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::consumer::Consumer;
use super::phase::{Phase, Subscriber};
use super::stall::StallRule;
use super::terms::{BrokerWakes, Membership};
use crate::entry::Entry;
use crate::identity::Identity;
use crate::queue::{OverflowPolicy, Pushed, Room};
use crate::topic::{TopicId, TopicIds};

/// Bytes that a slow client of a stream of values is given at once.
const FRESH: usize = 4 << 10;

fn ids(topics: &[Membership]) -> TopicIds {
    topics.iter().map(|found| found.topic).collect()
}

impl Subscriber {
    /// How many events, and bytes, wait in the queue.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.bytes())
    }

    /// Whether its overflow policy drops events.
    #[must_use]
    pub fn may_drop(&self) -> bool {
        self.terms.overflow != OverflowPolicy::Disconnect
    }

    /// The most bytes that its consumer takes from the queue now. What a slow client has not taken may be dropped, or
    /// replaced by something newer, only as long as it is in the queue.
    pub(super) fn most_at_once(&mut self, now: Duration) -> usize {
        // It is slow until it has everything: the kernel may take the first part at once.
        self.is_slow = self.queue.bytes() > FRESH
            && (self.is_slow || self.consumer.is_late(now))
            && (self.may_drop() || self.queue.has_values());
        if self.is_slow { FRESH } else { usize::MAX }
    }

    /// Whether it waits for a piece of its gap.
    #[must_use]
    pub fn waits_for_piece(&self) -> bool {
        matches!(self.phase, Phase::Fetching(_))
    }

    /// Deliver a published event to its queue.
    pub fn push(&mut self, entry: &Arc<Entry>, now: Duration, turn: u64, wakes: &mut BrokerWakes) -> Pushed {
        if entry.is_break {
            self.break_off(wakes);
        }
        if matches!(self.phase, Phase::Broken) {
            return Pushed::Queued;
        }
        let room = self.room(now, turn);
        // A running replay takes over the events for which the queue has no room, and reads them from history. A
        // client that was disconnected instead would come back as far behind as before.
        if room != Room::Any
            && let (Some(replay), Some(seq)) = (self.phase.replay(), entry.seq)
            && replay.covers(&ids(&self.topics))
            && self.queue.give_to_history(entry, room, |entry| replay.reads(entry))
        {
            replay.extend(seq);
            return Pushed::Queued;
        }
        self.queue.push(entry, room)
    }

    /// Its place in the reader's list of a topic; `None` when it is not in that topic.
    pub fn place_of(&mut self, topic: TopicId) -> Option<&mut usize> {
        let at = self.topics.binary_search_by_key(&topic, |found| found.topic).ok()?;
        self.topics.get_mut(at).map(|found| &mut found.place)
    }

    /// The topics whose events are delivered to it.
    #[must_use]
    pub fn topic_ids(&self) -> TopicIds {
        ids(&self.topics)
    }

    /// Transfer it to another reader. Its consumer is new, and counts as away like a newcomer's.
    pub fn transfer_to(&mut self, identity: Arc<Identity>, now: Duration, turn: u64, serial: u64) {
        self.identity = identity;
        self.topics = SmallVec::new();
        self.serial = serial;
        self.consumer = Consumer::Away { since: now, turn };
        self.stall_rule = StallRule::default();
        if let Some(pace) = &mut self.pace {
            pace.unlist();
        }
    }

    /// Deliver an event that was published before its transfer or close, and not delivered by its reader. It has not
    /// waited behind a write, so the limits do not hold.
    pub fn deliver_pending(&mut self, entry: &Arc<Entry>, wakes: &mut BrokerWakes) -> Pushed {
        if entry.is_break {
            self.break_off(wakes);
        }
        if matches!(self.phase, Phase::Broken) {
            return Pushed::Queued;
        }
        self.queue.push(entry, Room::Any)
    }

    /// Bytes that wait for the application's snapshot; `None` when none is awaited.
    #[must_use]
    pub fn bytes_behind_initial(&self) -> Option<usize> {
        matches!(self.phase, Phase::Initial(_)).then(|| self.queue.bytes())
    }
}
