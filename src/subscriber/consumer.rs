//! Where a subscriber's consumer is, and what it finds when it comes.

use std::time::Duration;

/// A consumer that was woken counts as stuck behind an unfinished write when it has not come back for this
/// many turns of its reader *and* [`STUCK_AFTER`]: middleware may need several turns of the event loop to
/// pass one chunk on, and a loop that was blocked has not let it run.
const STUCK_TURNS: u64 = 8;
/// See [`STUCK_TURNS`].
const STUCK_AFTER: Duration = Duration::from_millis(20);

/// Where its consumer is.
#[derive(Debug)]
pub(super) enum Consumer {
    /// It waits to be woken.
    Parked,
    /// It was woken or took something and has not come back.
    Away { since: Duration, turn: u64 },
}

/// What [`Subscriber::take`](super::Subscriber::take) found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There is something to write; come again when that is done.
    Some,
    /// There is something to write, and nothing after it: the consumer is parked already, as if that were done.
    /// Only for one that asked for it.
    Last,
    /// Nothing yet: the consumer is parked.
    Nothing,
    /// What comes next does not follow what the client has, and it wants no control events to be told by: the caller
    /// closes the stream with [`CloseReason::Gap`](crate::identity::CloseReason::Gap) and breaks the body off.
    Gap,
    /// Everything of its topics was taken, and they have ended: the caller closes the stream with
    /// [`CloseReason::Ended`](crate::identity::CloseReason::Ended).
    Finished,
    /// The stream is over.
    End,
}

impl Consumer {
    /// Whether it has been behind an unfinished write for long.
    pub(super) fn is_stuck(&self, now: Duration, turn: u64) -> bool {
        match self {
            Self::Parked => false,
            Self::Away { since, turn: woken } => {
                turn.saturating_sub(*woken) >= STUCK_TURNS && now.saturating_sub(*since) >= STUCK_AFTER
            }
        }
    }
}
