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
    /// Whether the application's initial events are awaited.
    pub initial: bool,
    /// For `recovered`.
    pub recovered: Option<bool>,
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
    pub(super) next: Box<dyn Wake>,
    pub(super) piece: Option<Fetched>,
}

impl Fetch {
    /// Nothing was fetched yet. `next` is woken when the next piece is wanted, and when none is any more.
    #[must_use]
    pub fn new(next: Box<dyn Wake>) -> Self {
        Self { next, piece: Some(Fetched::default()) }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.next.wake();
    }
}
