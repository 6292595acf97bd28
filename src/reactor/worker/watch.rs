//! Finding the clients that have stalled, or vanished without a word.
//!
//! A round over all connections begins every quarter of `stall_timeout`; in between a round goes on as long as a
//! slice allows. A connection whose client has everything, and to which nothing was written since, costs no
//! system call.

use std::time::{Duration, Instant};

use super::{SLICE, Worker};
use crate::identity::CloseReason;
use crate::stats::count;

/// Rounds in one `stall_timeout`.
const ROUNDS: u32 = 4;
/// The shortest time between two rounds.
const LEAST: Duration = Duration::from_millis(10);

pub struct Watch {
    /// When the next round begins, on the hub's clock.
    pub next: Duration,
    period: Duration,
    /// The connection that the round under way comes to next.
    token: Option<usize>,
}

impl Watch {
    pub fn new(stall_timeout: Duration, now: Duration) -> Self {
        let period = (stall_timeout / ROUNDS).max(LEAST);
        Self { next: now + period, period, token: None }
    }

    pub fn is_under_way(&self) -> bool {
        self.token.is_some()
    }
}

impl Worker {
    pub(super) fn watch_clients(&mut self) {
        let now = self.hub.clock.now();
        if now >= self.watch.next && self.watch.token.is_none() {
            self.watch.next = now + self.watch.period;
            self.watch.token = Some(0);
        }
        let Some(mut token) = self.watch.token else { return };
        let start = Instant::now();
        while token < self.connections.capacity() {
            self.check(token, now);
            token += 1;
            if token.is_multiple_of(16) && start.elapsed() >= SLICE {
                self.watch.token = Some(token);
                return;
            }
        }
        self.watch.token = None;
    }

    /// Close a connection whose client took nothing for `stall_timeout`.
    fn check(&mut self, token: usize, now: Duration) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let stall_timeout = self.hub.config.stall_timeout;
        let quiet = connection.check(now);
        if quiet < stall_timeout {
            return;
        }
        // A client that is there answers the kernel's probes of its closed window.
        let vanished = connection.is_silent_for(quiet);
        let is_open = connection.identity.closed.get().is_none();
        if is_open && !vanished {
            count(&self.hub.counters.stalled, 1);
        }
        self.close(token, if vanished { &CloseReason::Client } else { &CloseReason::Stalled });
    }
}
