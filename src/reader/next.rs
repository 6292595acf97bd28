//! When a reader's driver must come without being woken.

use std::time::Duration;

/// When a reader has something to do without an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Next {
    /// A heartbeat, a stall check or an end is due: some milliseconds later will do.
    pub check: Option<Duration>,
    /// Events that are held go out.
    pub release: Option<Duration>,
}

impl Next {
    /// The first of all.
    #[must_use]
    pub fn soonest(self) -> Option<Duration> {
        [self.check, self.release].into_iter().flatten().min()
    }
}
