//! How a stalled client is detected. The decision is in `silence.rs` for clients of an event loop, and in
//! `reactor/worker/watch.rs` for handed-off ones; a queue that is full is `queue.rs`'s.

use std::time::Duration;

/// How the hub learns that a client takes no bytes of an unfinished write.
#[derive(Debug, Default)]
pub(super) enum StallRule {
    /// The consumer has been away for `stall_timeout`.
    #[default]
    Away,
    /// The consumer reports its unsent bytes.
    Asked(Box<Asked>),
    /// The consumer's driver detects it, and closes the stream.
    Driver,
}

/// A consumer's reports.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// When it was asked last.
    pub(super) at: Option<Duration>,
    /// The unsent bytes at that time, of the write that began at this time.
    pub(super) unsent: Option<(Duration, usize)>,
    /// What its client had acknowledged then, where the system says that.
    pub(super) acknowledged: Option<u64>,
    /// Whether something was taken since it was asked as a parked one: its server may have got that after it was asked.
    pub(super) has_taken: bool,
}

impl Asked {
    /// When to ask next, if the client took bytes at `progress`.
    pub(super) fn next(&self, progress: Duration, stall_timeout: Duration) -> Duration {
        progress.max(self.at.unwrap_or_default()) + stall_timeout / QUESTIONS
    }
}

/// A consumer is asked this often in one `stall_timeout`.
pub(super) const QUESTIONS: u32 = 4;
