//! The consumer's visits: it takes entries, and is parked and resumed.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::{Consumer, Taken};
use super::phase::{Phase, Subscriber};
use super::stall::StallRule;
use super::terms::BrokerWakes;
use crate::compress::Zip;
use crate::entry::Entry;
use crate::history::{Page, Replay};
use crate::identity::CloseReason;
use crate::queue::Room;

impl Subscriber {
    /// The room for one more event.
    pub(super) fn room(&self, now: Duration, turn: u64) -> Room {
        match &self.phase {
            // The hub or the application may take long to prepare the beginning, and the client is not to blame: a
            // burst is let in, but only the limit in bytes.
            Phase::Opening { .. } | Phase::Initial(_) => Room::InBytes,
            // The gap that is fetched comes first, however long that takes: history may take over.
            Phase::Fetching(_) => Room::InAll,
            _ if self.consumer.is_stuck(now, turn) => Room::InAll,
            _ => Room::Any,
        }
    }

    /// Resume the consumer. True when it was parked; it then counts as away.
    pub fn resume(&mut self, now: Duration, turn: u64) -> bool {
        let parked = matches!(self.consumer, Consumer::Parked);
        if parked {
            self.consumer = Consumer::Away { since: now, turn };
        }
        parked
    }

    /// Take entries for the consumer. `page` reads history.
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
        // Only then the identity is read, which is in no cache among thousands of subscribers.
        if matches!(self.phase, Phase::Closed { .. })
            && self.identity.closed.get().is_some_and(|reason| !reason.drains())
        {
            return self.end(out);
        }
        // With its memory: most streams never have a lead again.
        out.extend(std::mem::take(&mut self.lead));
        if self.take_before_queue(now, page, out, wakes) {
            if self.may_take_queue(now) {
                let before = out.len();
                self.take_queue(now, out);
                self.note_taken(out[before..].iter().map(|entry| &**entry), now);
            }
            if self.queue.is_empty() {
                self.take_end(now, out);
            }
        }
        if out.is_empty() && matches!(self.phase, Phase::Broken) {
            return Taken::Gap;
        }
        if out.is_empty() && matches!(self.phase, Phase::Finished) {
            return Taken::Finished;
        }
        if out.is_empty() {
            if self.identity.closed.get().is_some() {
                return self.end(out);
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
        if let StallRule::Asked(asked) = &mut self.stall_rule {
            asked.has_taken = true;
        }
        for entry in out.iter() {
            self.last_seq = self.last_seq.max(entry.seq.unwrap_or(0));
        }
        Taken::Some
    }

    /// The end of a compressed body comes before the end of the stream.
    fn end(&mut self, out: &mut Vec<Arc<Entry>>) -> Taken {
        let is_cut = |reason: &CloseReason| {
            reason.breaks_body() || matches!(reason, CloseReason::Client | CloseReason::Stalled)
        };
        if !self.identity.closed.get().is_some_and(is_cut)
            && self.zip.as_mut().is_some_and(|zip| zip.end(out))
        {
            return Taken::Some;
        }
        if let Phase::Closed { has_ended, .. } = &mut self.phase {
            *has_ended = true;
        }
        Taken::End
    }

    /// Park a consumer that is about to write all it took at once, unless there is more, or the end. Returns whether it
    /// is parked.
    pub fn park(&mut self, now: Duration) -> bool {
        let is_last = match self.phase {
            Phase::Opening { .. } | Phase::Initial(_) => true,
            Phase::Live => self.queue.is_empty() || !self.may_take_queue(now),
            _ => false,
        };
        if is_last {
            self.consumer = Consumer::Parked;
        }
        is_last
    }

    /// A parked consumer could not write everything.
    pub fn write_blocked(&mut self, now: Duration, turn: u64) {
        self.consumer = Consumer::Away { since: now, turn };
    }

    /// Compress its body from the first byte on, behind a header that was sent, or that it `owes`. False when entries
    /// were taken: the body has begun.
    pub fn compress(&mut self, owes_header: bool) -> bool {
        if !self.was_taken {
            self.zip = Some(Box::new(Zip::new(owes_header)));
        }
        !self.was_taken
    }

    /// Whether the consumer ever came.
    #[must_use]
    pub fn was_taken(&self) -> bool {
        self.was_taken
    }

    /// Whether the consumer has seen the end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Closed { has_ended: true, .. })
    }
}
