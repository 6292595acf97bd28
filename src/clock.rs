//! The hub's clock: time since it was made, real or driven by a test.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sync::{AtomicU64, Ordering};

/// What the machine's clock shows at first: so that what happened before, in another process, has a time too.
const BEFORE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A monotonic clock.
#[derive(Debug)]
pub enum Clock {
    /// The machine's.
    Real(Instant),
    /// One that stands still until it is advanced; in nanoseconds. `SeqCst`: only tests have one, and what they see
    /// shall not depend on the machine.
    Manual(AtomicU64),
}

impl Clock {
    /// The machine's clock, from now.
    #[must_use]
    pub fn real() -> Self {
        Self::Real(Instant::now())
    }

    /// A clock that stands still.
    #[must_use]
    pub fn manual() -> Self {
        Self::Manual(AtomicU64::new(0))
    }

    /// Whether it is moved by hand.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        matches!(self, Self::Manual(_))
    }

    /// Time on this clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        match self {
            Self::Real(start) => BEFORE + start.elapsed(),
            Self::Manual(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }

    /// The time of day since the Unix epoch. A manual clock adds what it was advanced by.
    #[must_use]
    pub fn time_of_day(&self) -> Duration {
        match self {
            Self::Real(_) => since_epoch(),
            Self::Manual(_) => since_epoch() + self.now(),
        }
    }

    /// Move a manual clock; false for the machine's.
    pub fn advance(&self, by: Duration) -> bool {
        match self {
            Self::Real(_) => false,
            Self::Manual(nanos) => {
                nanos.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
                true
            }
        }
    }
}

/// The machine's time of day, since the Unix epoch.
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
