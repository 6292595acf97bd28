//! The state of a subscriber's consumer, and the results of its visits.

use std::time::Duration;

/// A resumed consumer counts as stuck behind an unfinished write when it has not come back for this many turns of its
/// reader *and* [`STUCK_AFTER`]: middleware may need several turns of the event loop to pass one chunk on, and a
/// blocked loop does not run the consumer.
const STUCK_TURNS: u64 = 8;
/// See [`STUCK_TURNS`].
const STUCK_AFTER: Duration = Duration::from_millis(20);

/// The state of a consumer.
#[derive(Debug)]
pub(super) enum Consumer {
    /// It waits to be resumed.
    Parked,
    /// It was resumed, or took entries, and has not come back.
    Away { since: Duration, turn: u64 },
}

/// The result of [`Subscriber::take`](super::Subscriber::take).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There are entries to write; come again when that is done.
    Some,
    /// There are entries to write, and none after them: the consumer is parked already. Only for a consumer that asked
    /// for that.
    Last,
    /// There are no entries: the consumer is parked.
    Nothing,
    /// The next entry does not follow what the client has, and without control events the gap cannot be announced: the
    /// caller closes the stream with [`CloseReason::Gap`](crate::identity::CloseReason::Gap) and breaks the body off.
    Gap,
    /// Everything of its topics was taken, and they have ended: the caller closes the stream with
    /// [`CloseReason::Ended`](crate::identity::CloseReason::Ended).
    Finished,
    /// The stream is over.
    End,
}

impl Consumer {
    /// Whether it has been away for so long that its client may be slow.
    pub(super) fn is_late(&self, now: Duration) -> bool {
        matches!(self, Self::Away { since, .. } if now.saturating_sub(*since) >= STUCK_AFTER)
    }

    /// Whether it has been stuck behind an unfinished write.
    pub(super) fn is_stuck(&self, now: Duration, turn: u64) -> bool {
        match self {
            Self::Parked => false,
            Self::Away { since, turn: woken } => {
                turn.saturating_sub(*woken) >= STUCK_TURNS && now.saturating_sub(*since) >= STUCK_AFTER
            }
        }
    }
}
