//! A client's gap, fetched from the store piece by piece.

use std::time::Instant;

use tokio::sync::Notify;

use super::backoff::Backoff;
use super::shared::Shared;
use super::store::{Log, Store};
use crate::broker::letter::Arrived;
use crate::ids::{StreamId, SubscriberId};

/// The most entries, and about the most bytes, fetched at once for a client: many clients may come back at once.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 256 << 10;

/// The time by the log's clock, from which ids are made.
#[derive(Clone, Copy)]
pub struct LogTime {
    ms: u64,
    at: Instant,
}

impl LogTime {
    /// The log's time now.
    pub fn new(ms: u64) -> Self {
        Self { ms, at: Instant::now() }
    }

    /// Now, in milliseconds.
    pub fn now(self) -> u64 {
        self.ms.saturating_add(u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The entries after one id, up to another; and the time, if events have a maximum age.
pub struct Gap {
    pub after: StreamId,
    pub end: StreamId,
    pub time: Option<LogTime>,
}

/// Fetch a gap for a subscriber, one piece whenever it needs the next.
pub async fn fetch<S: Store>(shared: &Shared<S>, subscriber: SubscriberId, gap: Gap, wanted: &Notify) {
    let Gap { after, end, time } = gap;
    let is_too_old = |entry: &Arrived| time.is_some_and(|time| shared.kept.is_too_old(entry.id, time.now()));
    let mut at = after;
    loop {
        wanted.notified().await;
        let page = shared.page(subscriber, at, shared.pages.entries(PAGE_BYTES, PAGE)).await;
        let Some(hub) = shared.hub.upgrade() else { return };
        let is_empty = page.as_ref().is_none_or(Vec::is_empty);
        let page = page.unwrap_or_default();
        let old = page.iter().take_while(|entry| is_too_old(entry)).count();
        let (mut is_lost, mut count) = (is_empty && at < end, page.len());
        for (index, entry) in page.iter().enumerate() {
            let is_gap = entry.before != Some(at) || entry.letter.is_err();
            if is_gap && index > old {
                // The next piece begins with this entry: a gap is announced where it is, before a piece.
                count = index;
                break;
            }
            // The next entries became too old while the client was slow to take the ones before.
            is_lost |= is_gap || (index < old && entry.id <= end);
            at = entry.id;
        }
        let is_done = is_empty || at >= end;
        let piece = page.into_iter().take(count).skip(old).filter(|entry| entry.id <= end).collect();
        if !hub.deliver_piece(subscriber, piece, is_lost, is_done) || is_done {
            return;
        }
    }
}

impl<S: Store> Shared<S> {
    /// The entries that follow `after`, however long that takes; `None` when they cannot be read, or the client has
    /// left.
    async fn page(
        &self,
        subscriber: SubscriberId,
        after: StreamId,
        mut count: usize,
    ) -> Option<Vec<Arrived>> {
        let mut backoff = Backoff::new();
        while self.has(subscriber) {
            match self.store.log().after(after, count).await {
                Ok(page) => {
                    self.pages.read(&page);
                    return Some(page);
                }
                Err(error) if error.is_refusal() => {
                    self.report_refusal(&error);
                    return None;
                }
                Err(_) => {
                    // A reply that is too large for the server ends the connection.
                    count = (count / 2).max(1);
                    backoff.pause().await;
                }
            }
        }
        None
    }
}
