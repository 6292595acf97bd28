//! What is delivered to a subscriber's queue, and its place at a reader.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::consumer::Consumer;
use super::phase::{Phase, Subscriber};
use super::stall::StallRule;
use super::terms::{BrokerWakes, Membership};
use crate::entry::Entry;
use crate::identity::Identity;
use crate::queue::{Pushed, Room};
use crate::topic::TopicIds;

fn ids(topics: &[Membership]) -> TopicIds {
    topics.iter().map(|found| found.topic).collect()
}

impl Subscriber {
    /// Put a published event in its queue.
    pub fn push(&mut self, entry: &Arc<Entry>, now: Duration, turn: u64, wakes: &mut BrokerWakes) -> Pushed {
        if entry.is_break {
            self.break_off(wakes);
        }
        if matches!(self.phase, Phase::Broken) {
            return Pushed::Queued;
        }
        let room = self.room(now, turn);
        // One that is busy with a replay takes what it can: what its queue has no room for, the replay reads
        // from history. Cut instead, it would come back as far behind as before, and be cut again.
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

    /// The topics it is dispatched by.
    #[must_use]
    pub fn topic_ids(&self) -> TopicIds {
        ids(&self.topics)
    }

    /// It is at another reader from now on. Its consumer is new, and counts as away as that of a newcomer.
    pub fn transfer_to(&mut self, identity: Arc<Identity>, now: Duration, turn: u64, serial: u64) {
        self.identity = identity;
        self.topics = SmallVec::new();
        self.serial = serial;
        self.consumer = Consumer::Away { since: now, turn };
        self.stall_rule = StallRule::default();
    }

    /// Put an event in its queue that was published, and not dispatched yet, before it left its reader or was
    /// closed: what the hub has yet to offer waits behind no write. How many events were dropped.
    pub fn catch_up(&mut self, entry: &Arc<Entry>, wakes: &mut BrokerWakes) -> u64 {
        if entry.is_break {
            self.break_off(wakes);
        }
        if matches!(self.phase, Phase::Broken) {
            return 0;
        }
        match self.queue.push(entry, Room::Any) {
            Pushed::Dropped(n) => n,
            Pushed::Queued | Pushed::Overflow => 0,
        }
    }

    /// Bytes that wait for the application's snapshot; `None` when it makes none.
    #[must_use]
    pub fn waits_for_initial(&self) -> Option<usize> {
        matches!(self.phase, Phase::Initial(_)).then(|| self.queue.bytes())
    }
}
