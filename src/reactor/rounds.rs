//! When the reactor checks its clients: a round over all connections every quarter of `stall_timeout`.

use std::time::Duration;

/// Rounds in one `stall_timeout`.
pub const ROUNDS: u32 = 4;
/// The shortest time between two rounds.
const LEAST: Duration = Duration::from_millis(10);

pub struct Rounds {
    /// When the next round begins, on the hub's clock.
    pub next: Duration,
    period: Duration,
    /// The next connection of the current round.
    token: Option<usize>,
}

impl Rounds {
    pub fn new(stall_timeout: Duration, now: Duration) -> Self {
        let period = (stall_timeout / ROUNDS).max(LEAST);
        Self { next: now + period, period, token: None }
    }

    pub fn is_under_way(&self) -> bool {
        self.token.is_some()
    }

    /// The next connection of the current round, or of one that begins now.
    pub fn take(&mut self, now: Duration) -> Option<usize> {
        if self.token.is_none() && now >= self.next {
            self.next = now + self.period;
            return Some(0);
        }
        self.token.take()
    }

    /// The round goes on at `token` after the worker's other work.
    pub fn interrupt(&mut self, token: usize) {
        self.token = Some(token);
    }
}
