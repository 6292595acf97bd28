//! How a client that takes nothing is found out.

use std::time::Duration;

/// How the hub learns that a client takes nothing of an unfinished write.
#[derive(Debug, Default)]
pub(super) enum StallRule {
    /// The consumer has been away for `stall_timeout`.
    #[default]
    Away,
    /// The consumer says what its client has not taken yet.
    Asked(Box<Asked>),
    /// The consumer's driver finds out, and closes the stream.
    Driver,
}

/// What a consumer said.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// When it was asked last.
    pub(super) at: Option<Duration>,
    /// What was unsent then, of the write that began at this time.
    pub(super) unsent: Option<(Duration, usize)>,
}

/// A consumer is asked this often in one `stall_timeout`.
pub(super) const QUESTIONS: u32 = 4;
