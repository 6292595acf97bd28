//! How a stream begins, and what is fetched from elsewhere for it.

use std::sync::Arc;

use crate::control::ResetReason;
use crate::entry::Entry;
use crate::history::Replay;
use crate::ids::EventId;
use crate::waker::Wake;

/// How a stream begins: what the hub decided on joining.
pub struct Plan {
    /// The cursor at which it joined.
    pub cursor: u64,
    /// The id of `stream-open`, or of the end of the initial events; none when it is not known.
    pub id: Option<EventId>,
    /// Why it cannot be resumed, with the id the client gave.
    pub reset: Option<(ResetReason, Option<Box<str>>)>,
    /// What is read from history first.
    pub replay: Option<Replay>,
    /// What is fetched from elsewhere even before that.
    pub fetch: Option<Fetch>,
    /// Where the stream goes on after the application's snapshot, if one is awaited.
    pub snapshot: Option<Snapshot>,
    /// False for a newcomer that asked for all of its topics' past and cannot get all of it.
    pub complete: bool,
    /// For `recovered`.
    pub recovered: Option<bool>,
}

/// Where a stream goes on after the application's snapshot, which contains everything that was published before the
/// joining. Without initial events the stream begins as its [`Plan`] says otherwise.
pub struct Snapshot {
    /// The cursor at which the subscriber joined, with its id if that is known.
    pub cursor: (u64, Option<EventId>),
    /// What was published since then and found no room in the queue. Empty at first.
    pub since: Replay,
}

/// A piece of what a client missed, from elsewhere.
#[derive(Default)]
pub struct Fetched {
    /// In order.
    pub entries: Vec<Arc<Entry>>,
    /// What comes between the last piece and this one is not to be had any more.
    pub lost: bool,
    /// There is nothing after this piece.
    pub done: bool,
}

/// What is being fetched for one subscriber.
pub struct Fetch {
    next: Arc<dyn Wake>,
    pub(super) piece: Option<Fetched>,
}

impl Fetch {
    /// Nothing was fetched yet. `next` is woken when the next piece is wanted, and when none is any more.
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
