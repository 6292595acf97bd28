//! Delivery: readers drain the log, and consumers take entries from their subscriber.

use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use crate::entry::Entry;
use crate::identity::{Identity, Keyed};
use crate::log::Item;
use crate::reader::{Effects, Next, Reader};
use crate::stats::count;
use crate::subscriber::Taken;
use crate::sync::Ordering;

/// A drain takes at most this many items and bytes, then lets the loop's other work run.
const BATCH_ITEMS: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
/// One page of a replay.
const PAGE_ENTRIES: usize = 512;
const PAGE_BYTES: usize = 64 << 10;

/// The result of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// More is waiting: drain again after the loop's other work.
    pub more: bool,
    /// When to drain again at the latest, on the hub's clock.
    pub next: Next,
    /// When the oldest event of the batch was published, on the hub's clock.
    pub published: Option<Duration>,
}

impl Hub {
    /// Deliver a batch of the log to the reader's subscribers, and do what time has made due.
    pub fn drain(&self, reader: &Reader, effects: &mut Effects) -> Drained {
        let now = self.clock.now();
        reader.bell.heard();
        let mut published = None;
        let read = |items: &mut Vec<Item>| {
            let mut state = self.state.lock();
            let cursor = state.readers.get(&reader.id).and_then(|slot| slot.cursor);
            let more = cursor.is_some_and(|cursor| state.log.read(cursor, BATCH_ITEMS, BATCH_BYTES, items));
            self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
            published = items.iter().find_map(Item::published);
            more
        };
        let more = reader.deliver_batch(read, now, &self.counters, effects);
        Drained { more, next: self.tick(reader, effects), published }
    }

    /// A batch whose oldest event was published at `published` is written to every client that takes it.
    pub fn written(&self, published: Duration) {
        self.measures.publish_to_write.observe_time(self.clock.now().saturating_sub(published));
    }

    /// Do what time has made due at the reader; returns when to tick again. Part of a drain.
    pub fn tick(&self, reader: &Reader, effects: &mut Effects) -> Next {
        let next = reader.tick(self.clock.now(), &self.counters, effects);
        self.unregister_all(effects.closed.iter().map(|(identity, _)| identity.id));
        next
    }

    /// Take entries for a subscriber's consumer.
    pub fn take(&self, reader: &Reader, identity: &Identity, out: &mut Vec<Arc<Entry>>) -> Taken {
        self.take_for(reader, identity.into(), out, false)
    }

    /// The same for a consumer that writes at once, on the reader's own thread: it is parked by the same visit. If it
    /// could not write everything, it calls [`Reader::write_blocked`] before the reader drains again.
    pub fn take_last(&self, reader: &Reader, subscriber: Keyed<'_>, out: &mut Vec<Arc<Entry>>) -> Taken {
        self.take_for(reader, subscriber, out, true)
    }

    pub(super) fn take_for(
        &self,
        reader: &Reader,
        subscriber: Keyed<'_>,
        out: &mut Vec<Arc<Entry>>,
        parks: bool,
    ) -> Taken {
        let now = self.clock.now();
        let mut page = |replay: &mut crate::history::Replay| {
            let page = self.state.lock().history.page(replay, PAGE_ENTRIES, PAGE_BYTES, now);
            count(&self.counters.resets, u64::from(page.lost));
            if page.done {
                self.measures.replay.observe(replay.given());
            }
            page
        };
        reader.take(subscriber, now, &self.counters, &mut page, out, parks)
    }
}
