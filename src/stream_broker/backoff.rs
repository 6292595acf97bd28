//! Pauses between attempts.

use std::time::Duration;

/// The first pause between two attempts.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// The longest: with the time to connect, recovery stays within two seconds.
const MOST_PAUSE: Duration = Duration::from_millis(400);

/// Pauses that grow.
pub struct Backoff(Duration);

impl Backoff {
    pub fn new() -> Self {
        Self(LEAST_PAUSE)
    }

    /// Wait before the next attempt.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(MOST_PAUSE);
    }
}
