//! How a stream begins, and the gap that is fetched from a broker for it.

use std::sync::Arc;

use crate::control::ResetReason;
use crate::entry::Entry;
use crate::history::Replay;
use crate::ids::EventId;
use crate::waker::Wake;

/// How a stream begins, as the hub decided it.
pub struct Plan {
    /// The number behind which it begins.
    pub cursor: u64,
    /// The id of `stream-open`, or of the last initial event; `None` when it is not known.
    pub id: Option<EventId>,
    /// Why it cannot be resumed, with the id the client gave.
    pub reset: Option<(ResetReason, Option<Box<str>>)>,
    /// The replay from history.
    pub replay: Option<Replay>,
    /// The gap that is fetched before that.
    pub fetch: Option<Fetch>,
    /// Where the stream goes on after the application's snapshot, if one is awaited.
    pub snapshot: Option<Snapshot>,
    /// False for a newcomer that asked for all of its topics' past and cannot get all of it.
    pub complete: bool,
    /// The value of `recovered`.
    pub recovered: Option<bool>,
}

/// How a stream goes on after the application's snapshot, which contains everything published before the registering.
/// Without initial events the stream goes on as its [`Plan`] says otherwise.
pub struct Snapshot {
    /// The head when the subscriber was registered, with its id if that is known.
    pub cursor: (u64, Option<EventId>),
    /// The events since then that found no room in the queue. Empty at first.
    pub since: Replay,
}

/// One piece of a client's gap, from a broker.
#[derive(Default)]
pub struct Fetched {
    /// In order.
    pub entries: Vec<Arc<Entry>>,
    /// Events between the last piece and this one are lost.
    pub lost: bool,
    /// This is the last piece.
    pub done: bool,
}

/// The gap that is being fetched for one subscriber.
pub struct Fetch {
    next: Arc<dyn Wake>,
    pub(super) piece: Option<Fetched>,
}

impl Fetch {
    /// A gap of which nothing was fetched. `next` is woken when the next piece is needed, and when none is needed any
    /// more.
    #[must_use]
    pub fn new(next: Box<dyn Wake>) -> Self {
        Self { next: next.into(), piece: Some(Fetched::default()) }
    }

    pub(super) fn next(&self) -> Arc<dyn Wake> {
        self.next.clone()
    }

    pub(super) fn into_next(self) -> Arc<dyn Wake> {
        self.next
    }
}
