//! A stream with a rate: events that are held in its queue until its next write.
//!
//! Never held: what was sent to this client alone, a break of the order, the end of the stream, heartbeats, and what
//! comes before the queue. What goes out takes along everything before it, so the order stays.

use std::time::Duration;

use super::consumer::Consumer;
use super::phase::{Phase, Subscriber};
use crate::compress::Lane;
use crate::entry::{Entry, Target};

/// What an event that was queued, or time, does to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waking {
    /// Nothing: it comes without that.
    Nothing,
    /// It is to be resumed.
    Resume,
    /// It is to be looked at again at this time: what waits is held until then.
    At(Duration),
}

/// Whether a rate holds an event.
fn is_held(entry: &Entry) -> bool {
    !matches!(entry.target, Target::One(_)) && !entry.is_break
}

impl Subscriber {
    /// An event was queued.
    #[inline]
    pub fn wake_for(&mut self, entry: &Entry, now: Duration, turn: u64) -> Waking {
        if let (Some(pace), Consumer::Parked) = (&mut self.pace, &self.consumer) {
            let is_broken = matches!(self.phase, Phase::Broken);
            // A full queue goes out early: the client has yet to be given it, so nothing may be dropped.
            if is_held(entry) && !self.queue.is_full() && !is_broken && !pace.is_open(now) {
                return pace.hold().map_or(Waking::Nothing, Waking::At);
            }
            pace.release(now);
        }
        if self.resume(now, turn) { Waking::Resume } else { Waking::Nothing }
    }

    /// The time has come to which its events were held.
    pub fn come_due(&mut self, now: Duration, turn: u64) -> Waking {
        let Some(pace) = &mut self.pace else { return Waking::Nothing };
        pace.unlist();
        if self.queue.is_empty() || !matches!(self.consumer, Consumer::Parked) {
            return Waking::Nothing;
        }
        if !pace.is_open(now) {
            return pace.hold().map_or(Waking::Nothing, Waking::At);
        }
        pace.release(now);
        if self.resume(now, turn) { Waking::Resume } else { Waking::Nothing }
    }

    /// After a visit of the consumer: the time until which the queue is held, if the reader has yet to learn it.
    pub fn held_until(&mut self) -> Option<Duration> {
        if self.queue.is_empty() || !matches!(self.phase, Phase::Live) {
            return None;
        }
        self.pace.as_mut().and_then(|pace| pace.hold())
    }

    /// The group in which it is written to, if it has a rate.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.pace.as_ref().map(|pace| pace.lane())
    }

    /// Whether the queue may be taken now.
    pub(super) fn may_take_queue(&self, now: Duration) -> bool {
        let Some(pace) = &self.pace else { return true };
        let is_over = self.is_finished() || self.identity.closed.get().is_some();
        is_over || pace.is_open(now) || self.queue.is_full()
    }

    /// These entries of the queue were taken, perhaps with others to follow.
    pub(super) fn note_taken<'a>(&mut self, taken: impl IntoIterator<Item = &'a Entry>, now: Duration) {
        if let Some(pace) = self.pace.as_mut().filter(|_| self.queue.is_empty()) {
            pace.take(taken.into_iter().any(is_held), now);
        }
    }
}
