//! What time makes due at a subscriber: heartbeats after silence, the end of a client that takes nothing, and of
//! a stream that has lasted long enough.

use std::sync::Arc;
use std::time::Duration;

use super::{Consumer, Subscriber};
use crate::entry::Entry;
use crate::heartbeat::{Heartbeat, look_after};
use crate::identity::CloseReason;

/// What is due at a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// It has been silent for too long, and is parked.
    Heartbeat,
    /// It must end.
    Close(CloseReason),
}

impl Subscriber {
    /// When to look at it again.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Duration {
        let beat = |heartbeat: Heartbeat| heartbeat.after(self.last_write);
        let silence = match self.consumer {
            // It may go away unnoticed at any moment, but cannot have stalled before it was away for as long.
            Consumer::Parked => {
                let look = look_after(now, self.terms.stall_timeout);
                self.terms.heartbeat.map_or(look, |heartbeat| look.min(beat(heartbeat)))
            }
            Consumer::Away { since, .. } => {
                let stall = since.max(self.progress) + self.terms.stall_timeout;
                match self.terms.heartbeat {
                    Some(heartbeat) if !self.owes_heartbeat => stall.min(beat(heartbeat)),
                    // It may come back any moment, and be silent from then on: nothing tells of that, so look
                    // at least this often.
                    Some(heartbeat) => stall.min(heartbeat.after(now)),
                    None => stall,
                }
            }
        };
        self.terms.expires.map_or(silence, |expires| silence.min(expires))
    }

    /// What is due now.
    pub fn due(&mut self, now: Duration) -> Due {
        if self.terms.expires.is_some_and(|at| now >= at) {
            return Due::Close(CloseReason::MaxAge);
        }
        let silent = self.terms.heartbeat.is_some_and(|heartbeat| now >= heartbeat.after(self.last_write));
        match self.consumer {
            Consumer::Parked if silent => Due::Heartbeat,
            Consumer::Parked => Due::Nothing,
            Consumer::Away { since, .. } => {
                self.owes_heartbeat |= silent;
                let waits = self.owes_heartbeat || !self.queue.is_empty() || !self.lead.is_empty();
                let is_late = now >= since.max(self.progress) + self.terms.stall_timeout;
                if is_late && waits && !self.initial {
                    return Due::Close(CloseReason::Stalled);
                }
                if is_late {
                    // Nothing was kept from it: the application is slow with what it took. Look again later.
                    self.consumer = Consumer::Away { since: now, turn: 0 };
                }
                Due::Nothing
            }
        }
    }

    /// The cursor a heartbeat may speak of: 0 while an id would skip something.
    #[must_use]
    pub fn heartbeat_from(&self) -> u64 {
        if self.initial || self.fetch.is_some() { u64::MAX } else { self.last_seq }
    }

    /// Send a heartbeat to a parked consumer.
    pub fn beat(&mut self, heartbeat: Arc<Entry>, now: Duration) {
        self.last_write = now;
        self.lead.push(heartbeat);
    }
}
