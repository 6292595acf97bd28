//! How much the log keeps.

use std::time::Duration;

use crate::ids::StreamId;

/// What the log keeps.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// At least this many entries, and not many more.
    pub count: usize,
    /// No entry older than this.
    pub age: Option<Duration>,
    /// No entry is evicted for `count` before it has this age.
    pub min_age: Duration,
    /// How many bytes of the log a starting process takes over as its history.
    pub bytes: usize,
}

impl Kept {
    /// Whether an entry is older than any should be, at a time by the log's clock in milliseconds. The log may still
    /// have it: it is trimmed only when an event is published, and not exactly to the entry.
    #[must_use]
    pub fn is_too_old(&self, id: StreamId, now: u64) -> bool {
        self.age.is_some_and(|age| u128::from(now.saturating_sub(id.ms)) > age.as_millis())
    }
}
