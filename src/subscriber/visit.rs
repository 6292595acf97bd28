//! The consumer's visits: what it is given when it comes, and whether it waits, or is stuck behind an unfinished
//! write.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::{Consumer, Taken};
use super::phase::{Phase, Subscriber};
use super::terms::BrokerWakes;
use crate::entry::Entry;
use crate::history::{Page, Replay};
use crate::queue::Room;

impl Subscriber {
    /// How much room there is for one more event.
    pub(super) fn room(&self, now: Duration, turn: u64) -> Room {
        match &self.phase {
            // What is made ready for a newcomer is not its write, and may take long: a burst is let in, but memory
            // has an end.
            Phase::Opening { .. } | Phase::Initial(_) => Room::InBytes,
            // What is fetched for it comes first, however long that takes: history may take over.
            Phase::Fetching(_) => Room::InAll,
            _ if self.consumer.is_stuck(now, turn) => Room::InAll,
            _ => Room::Any,
        }
    }

    /// Whether the parked consumer has something to come for. It then counts as away.
    pub fn resume(&mut self, now: Duration, turn: u64) -> bool {
        let parked = matches!(self.consumer, Consumer::Parked);
        if parked {
            self.consumer = Consumer::Away { since: now, turn };
        }
        parked
    }

    /// The consumer is here: give it what there is. `page` reads history.
    pub fn take(
        &mut self,
        now: Duration,
        turn: u64,
        heartbeat: &mut dyn FnMut(u64) -> Arc<Entry>,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
        wakes: &mut BrokerWakes,
    ) -> Taken {
        self.was_taken = true;
        let (closed, drains) = match self.identity.closed.get() {
            None => (false, true),
            Some(reason) => (true, reason.drains()),
        };
        if !drains {
            return self.end();
        }
        // With its memory: most clients have nothing of their own to say ever again.
        out.extend(std::mem::take(&mut self.lead));
        if self.take_before_queue(now, page, out, wakes) {
            self.take_queue(now, out);
            self.take_end(now, out);
        }
        if out.is_empty() && matches!(self.phase, Phase::Broken) {
            return Taken::Gap;
        }
        if out.is_empty() && matches!(self.phase, Phase::Finished) {
            return Taken::Finished;
        }
        if out.is_empty() {
            if closed {
                return self.end();
            }
            if !self.owes_heartbeat {
                self.consumer = Consumer::Parked;
                return Taken::Nothing;
            }
            out.push(heartbeat(self.heartbeat_from()));
        }
        self.owes_heartbeat = false;
        self.last_write = now;
        self.consumer = Consumer::Away { since: now, turn };
        for entry in out.iter() {
            self.last_seq = self.last_seq.max(entry.seq.unwrap_or(0));
        }
        Taken::Some
    }

    fn end(&mut self) -> Taken {
        if let Phase::Closed { has_ended, .. } = &mut self.phase {
            *has_ended = true;
        }
        Taken::End
    }

    /// The consumer took something and is about to write it all at once: have it wait for what comes next, unless
    /// there is more, or the end. Whether it waits.
    pub fn park(&mut self) -> bool {
        let is_last = matches!(self.phase, Phase::Opening { .. } | Phase::Initial(_) | Phase::Live);
        if is_last {
            self.consumer = Consumer::Parked;
        }
        is_last
    }

    /// The consumer was parked and could not write everything.
    pub fn write_blocked(&mut self, now: Duration, turn: u64) {
        self.consumer = Consumer::Away { since: now, turn };
    }

    /// Whether anything was ever taken, or asked for.
    #[must_use]
    pub fn was_taken(&self) -> bool {
        self.was_taken
    }

    /// Whether it was told of its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Closed { has_ended: true, .. })
    }
}
