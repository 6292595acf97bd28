//! The consumer's visits: what it is given when it comes, and whether it waits, or is stuck behind an unfinished
//! write.

use std::sync::Arc;
use std::time::Duration;

use super::Subscriber;
use crate::control::{self, ResetReason};
use crate::entry::Entry;
use crate::history::{Page, Replay};

/// A consumer that was woken counts as stuck behind an unfinished write when it has not come back for this
/// many turns of its reader *and* [`STUCK_AFTER`]: middleware may need several turns of the event loop to
/// pass one chunk on, and a loop that was blocked has not let it run.
const STUCK_TURNS: u64 = 8;
/// See [`STUCK_TURNS`].
const STUCK_AFTER: Duration = Duration::from_millis(20);

/// Where its consumer is.
#[derive(Debug)]
pub(super) enum Consumer {
    /// It waits to be woken.
    Parked,
    /// It was woken or took something and has not come back.
    Away { since: Duration, turn: u64 },
}

/// How far its consumer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not come yet.
    New,
    /// It came.
    Begun,
    /// It was told of the end.
    Over,
}

/// What [`Subscriber::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There is something to write; come again when that is done.
    Some,
    /// There is something to write, and nothing after it: the consumer is parked already, as if that were done.
    /// Only for one that asked for it.
    Last,
    /// Nothing yet: the consumer is parked.
    Nothing,
    /// The stream is over.
    End,
}

impl Subscriber {
    /// Whether it waits behind an unfinished write.
    pub(super) fn is_stuck(&self, now: Duration, turn: u64) -> bool {
        match self.consumer {
            // What is fetched for it comes first, however long that takes: history may take over.
            _ if self.fetch.is_some() => true,
            Consumer::Parked => false,
            // What is made ready for a newcomer is not its write.
            Consumer::Away { .. } if self.initial => false,
            Consumer::Away { since, turn: woken } => {
                turn.saturating_sub(woken) >= STUCK_TURNS && now.saturating_sub(since) >= STUCK_AFTER
            }
        }
    }

    /// Whether the parked consumer has something to come for. It then counts as away.
    pub fn wake(&mut self, now: Duration, turn: u64) -> bool {
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
    ) -> Taken {
        self.stage = Stage::Begun;
        let (closed, drains) = match self.identity.closed.get() {
            None => (false, true),
            Some(reason) => (true, reason.drains()),
        };
        if !drains {
            self.stage = Stage::Over;
            return Taken::End;
        }
        // With its memory: most clients have nothing of their own to say ever again.
        out.extend(std::mem::take(&mut self.lead));
        if !self.initial {
            self.take_fetched(now, out);
            if self.fetch.is_none() {
                self.take_replay(now, page, out);
            }
            if self.fetch.is_none() && self.replay.is_none() {
                self.take_queue(now, out);
            }
        }
        if out.is_empty() {
            if closed {
                self.stage = Stage::Over;
                return Taken::End;
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

    /// The consumer took something and is about to write it all at once: have it wait for what comes next, unless
    /// there is more, or the end. Whether it waits.
    pub fn park(&mut self) -> bool {
        let is_last = self.replay.is_none() && self.identity.closed.get().is_none();
        if is_last {
            self.consumer = Consumer::Parked;
        }
        is_last
    }

    /// The consumer was parked and could not write everything.
    pub fn blocked(&mut self, now: Duration, turn: u64) {
        self.consumer = Consumer::Away { since: now, turn };
    }

    fn take_fetched(&mut self, now: Duration, out: &mut Vec<Arc<Entry>>) {
        let Some(fetch) = &mut self.fetch else { return };
        let Some(mut piece) = fetch.piece.take() else { return };
        if piece.lost {
            out.push(control::reset(ResetReason::Evicted, None, None, now));
        }
        out.append(&mut piece.entries);
        if piece.done {
            self.fetch = None;
        } else {
            fetch.next.wake();
        }
    }

    fn take_replay(
        &mut self,
        now: Duration,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
    ) {
        let Some(replay) = &mut self.replay else { return };
        let mut piece = page(replay);
        if piece.lost {
            out.push(control::reset(ResetReason::Evicted, None, None, now));
        }
        out.append(&mut piece.entries);
        if piece.done {
            self.replay = None;
        }
    }

    fn take_queue(&mut self, now: Duration, out: &mut Vec<Arc<Entry>>) {
        let (before, entries, after) = self.queue.take();
        if before > 0 {
            out.push(control::lagged(before, now));
        }
        out.extend(entries);
        if after > 0 {
            out.push(control::lagged(after, now));
        }
        self.queue.shrink();
    }

    /// Whether anything was ever taken, or asked for.
    #[must_use]
    pub fn was_taken(&self) -> bool {
        self.stage != Stage::New
    }

    /// Whether it was told of its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::Over
    }
}
