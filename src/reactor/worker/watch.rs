//! Finding the clients that have stalled, or vanished without a word.
//!
//! A round goes on as long as a slice allows, and then after the worker's other work. A connection whose client has
//! everything, and to which nothing was written since, costs no system call.

use std::time::{Duration, Instant};

use super::{SLICE, Worker};
use crate::identity::CloseReason;
use crate::stats::count;

impl Worker {
    pub(super) fn watch_clients(&mut self) {
        let now = self.hub.clock.now();
        let Some(mut token) = self.rounds.take(now) else { return };
        self.has_clients = !self.connections.is_empty();
        let start = Instant::now();
        while token < self.connections.capacity() {
            self.check(token, now);
            token += 1;
            if token.is_multiple_of(16) && start.elapsed() >= SLICE {
                return self.rounds.interrupt(token);
            }
        }
    }

    /// Close a connection whose client took nothing for `stall_timeout`.
    fn check(&mut self, token: usize, now: Duration) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let stall_timeout = self.hub.config.stall_timeout;
        let quiet = connection.check(now, stall_timeout);
        if quiet < stall_timeout {
            return;
        }
        let vanished = connection.has_vanished(quiet);
        let is_open = connection.identity.closed.get().is_none();
        if is_open && !vanished {
            count(&self.hub.counters.stalled, 1);
        }
        self.close(token, if vanished { &CloseReason::Client } else { &CloseReason::Stalled });
    }
}
