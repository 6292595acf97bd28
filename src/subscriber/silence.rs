//! Deadlines of a subscriber: heartbeats after silence, and the ends of stalled clients and of streams whose time is
//! over.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::Consumer;
use super::phase::{Phase, Subscriber};
use super::stall::{QUESTIONS, StallRule};
use crate::deadlines::{Heartbeat, look_after};
use crate::entry::Entry;
use crate::identity::CloseReason;

/// What is due at a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// A heartbeat: its consumer is parked, and the stream was silent for too long.
    Heartbeat,
    /// Its consumer has been away with a write for a while: ask what the client has not taken yet, and answer
    /// with [`Subscriber::report_unsent`].
    AskForProgress,
    /// It must end.
    Close(CloseReason),
}

impl Subscriber {
    /// The next deadline.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Duration {
        let beat = |heartbeat: Heartbeat| heartbeat.after(self.last_write);
        let silence = match self.consumer {
            // A parked consumer may be resumed at any moment, but cannot have stalled until it has been away for that long.
            Consumer::Parked => {
                let questions = if matches!(self.stall_rule, StallRule::Asked(_)) { QUESTIONS } else { 1 };
                let look = match self.parked_question() {
                    Some(question) => look_after(now, self.terms.stall_timeout / questions).min(question),
                    None => look_after(now, self.terms.stall_timeout / questions),
                };
                self.times.heartbeat.map_or(look, |heartbeat| look.min(beat(heartbeat)))
            }
            Consumer::Away { since, .. } => {
                let stall = self.stall_deadline(since.max(self.progress), now);
                match self.times.heartbeat {
                    Some(heartbeat) if !self.owes_heartbeat => stall.min(beat(heartbeat)),
                    // The consumer may come back, and the stream be silent from then on, without any event here: so
                    // check at least this often.
                    Some(heartbeat) => stall.min(heartbeat.after(now)),
                    None => stall,
                }
            }
        };
        self.times.limit.as_ref().map_or(silence, |limit| silence.min(limit.at))
    }

    /// The deadline of a consumer that is away, and whose client took bytes at `progress`.
    fn stall_deadline(&self, progress: Duration, now: Duration) -> Duration {
        let stall_timeout = self.terms.stall_timeout;
        match &self.stall_rule {
            StallRule::Away => progress + stall_timeout,
            StallRule::Asked(asked) => asked.next(progress, stall_timeout),
            StallRule::Driver => look_after(now, stall_timeout),
        }
    }

    /// What is due now.
    pub fn due(&mut self, now: Duration) -> Due {
        if let Some(limit) = self.times.limit.as_ref().filter(|limit| now >= limit.at) {
            return Due::Close(if limit.is_expiry { CloseReason::Expired } else { CloseReason::MaxAge });
        }
        let silent = self.times.heartbeat.is_some_and(|heartbeat| now >= heartbeat.after(self.last_write));
        match self.consumer {
            Consumer::Parked if self.parked_question().is_some_and(|question| now >= question) => {
                self.parked_due(now)
            }
            Consumer::Parked if silent => Due::Heartbeat,
            Consumer::Parked => Due::Nothing,
            Consumer::Away { since, .. } => {
                self.owes_heartbeat |= silent;
                let progress = since.max(self.progress);
                let is_held_back = self.phase.is_held_back();
                if !is_held_back && (self.waits() || self.has_unsent(since)) {
                    if self.has_stalled(progress, now) {
                        return Due::Close(CloseReason::Stalled);
                    }
                } else if now >= progress + self.terms.stall_timeout {
                    // Nothing waits for the client: the application is slow with what it took. Check again later.
                    self.consumer = Consumer::Away { since: now, turn: 0 };
                }
                let asks = !is_held_back && self.asks_now(progress, now);
                if asks { Due::AskForProgress } else { Due::Nothing }
            }
        }
    }

    /// When to ask a parked consumer whether its client takes what was written: what is unsent waits for that one alone.
    /// `None` when the client has everything, or nobody knows what it has acknowledged.
    fn parked_question(&self) -> Option<Duration> {
        let StallRule::Asked(asked) = &self.stall_rule else { return None };
        let asks = match asked.unsent {
            None => asked.at.is_none(),
            Some((_, unsent)) => asked.acknowledged.is_some() && (unsent > 0 || asked.has_taken),
        };
        asks.then(|| asked.next(self.progress, self.terms.stall_timeout))
    }

    fn parked_due(&mut self, now: Duration) -> Due {
        let has_stalled = self.has_stalled(self.progress, now);
        let StallRule::Asked(asked) = &mut self.stall_rule else { return Due::Nothing };
        if has_stalled && asked.unsent.is_some_and(|(_, unsent)| unsent > 0) {
            return Due::Close(CloseReason::Stalled);
        }
        (asked.at, asked.has_taken) = (Some(now), false);
        Due::AskForProgress
    }

    /// Whether anything waits for the consumer.
    fn waits(&self) -> bool {
        self.owes_heartbeat || !self.queue.is_empty() || !self.lead.is_empty() || self.is_finished()
    }

    /// Whether a consumer that is asked said that its write, begun at `since`, is unfinished. Then something waits for
    /// its client, though nothing does at the hub.
    fn has_unsent(&self, since: Duration) -> bool {
        matches!(&self.stall_rule, StallRule::Asked(asked)
            if asked.unsent.is_some_and(|(begun, unsent)| begun == since && unsent > 0))
    }

    /// Whether it is time to ask a consumer that is away, and whose client took bytes at `progress`.
    fn asks_now(&mut self, progress: Duration, now: Duration) -> bool {
        let StallRule::Asked(asked) = &mut self.stall_rule else { return false };
        let asks = now >= asked.next(progress, self.terms.stall_timeout);
        if asks {
            asked.at = Some(now);
        }
        asks
    }

    /// Whether a client for which something waits has taken nothing since `progress`, for too long.
    fn has_stalled(&self, progress: Duration, now: Duration) -> bool {
        let limit = progress + self.terms.stall_timeout;
        match &self.stall_rule {
            StallRule::Away => now >= limit,
            StallRule::Asked(asked) => asked.at.is_some_and(|at| at >= limit),
            StallRule::Driver => false,
        }
    }

    /// Ask the consumer for its unsent bytes, instead of counting the time of a write.
    pub fn ask_for_progress(&mut self) {
        self.stall_rule = StallRule::Asked(Box::default());
    }

    /// The consumer's driver detects a stalled client.
    pub fn leave_stalls_to_driver(&mut self) {
        self.stall_rule = StallRule::Driver;
    }

    /// The consumer's answer: so many bytes of its writes are unsent. A client that took some is alive; one that has
    /// everything cannot take more: what waits here waits for the application. `acknowledged` bytes were taken since the
    /// connection was made, if that is known; what is written meanwhile hides from `unsent` what is taken.
    pub fn report_unsent(&mut self, unsent: usize, acknowledged: Option<u64>, now: Duration) {
        if unsent == 0 {
            self.progress = now;
        }
        if let (StallRule::Asked(asked), Some(acknowledged)) = (&mut self.stall_rule, acknowledged) {
            let last = asked.acknowledged.replace(acknowledged);
            // What came after everything was taken has just been found.
            if last.is_none_or(|last| acknowledged > last) || asked.unsent.is_none_or(|(_, last)| last == 0) {
                self.progress = now;
            }
            let begun = match self.consumer {
                Consumer::Away { since, .. } => since,
                Consumer::Parked => self.last_write,
            };
            asked.unsent = Some((begun, unsent));
            return;
        }
        if let (StallRule::Asked(asked), Consumer::Away { since, .. }) =
            (&mut self.stall_rule, &self.consumer)
        {
            let last = asked.unsent.replace((*since, unsent));
            // Before the first answer about this write, the client may have taken bytes a moment ago.
            if last.is_none_or(|(begun, last)| begun != *since || unsent < last) {
                self.progress = now;
            }
        }
    }

    /// The number that the client has seen; the greatest when a heartbeat must not carry an id: one would skip
    /// something, or the client wants no control events.
    #[must_use]
    pub fn heartbeat_from(&self) -> u64 {
        let skips =
            self.phase.is_held_back() || matches!(self.phase, Phase::Fetching(_)) || !self.queue.is_empty();
        if skips || !self.terms.control { u64::MAX } else { self.last_seq }
    }

    /// Send a heartbeat to a parked consumer.
    pub fn beat(&mut self, heartbeat: Arc<Entry>, now: Duration) {
        self.last_write = now;
        self.lead.push(heartbeat);
    }
}
