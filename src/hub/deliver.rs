//! Delivering: readers drain the log, and consumers take what is there for them.

use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use crate::entry::Entry;
use crate::identity::Identity;
use crate::log::Item;
use crate::reader::{Effects, Reader};
use crate::stats::count;
use crate::subscriber::Taken;
use crate::sync::Ordering;

/// A drain takes at most this many items and bytes, then lets the loop's other work run.
const BATCH_ITEMS: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
/// A piece of a replay.
const PAGE_ENTRIES: usize = 512;
const PAGE_BYTES: usize = 64 << 10;

/// What a drain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// More is waiting: drain again after the loop's other work.
    pub more: bool,
    /// When to come again at the latest, on the hub's clock.
    pub next: Option<Duration>,
}

impl Hub {
    /// Deliver what is new to the reader's subscribers, and do what is due.
    pub fn drain(&self, reader: &Reader, effects: &mut Effects) -> Drained {
        let now = self.clock.now();
        reader.bell.heard();
        let read = |items: &mut Vec<Item>| {
            let mut state = self.state.lock();
            let cursor = state.readers.get(&reader.id).and_then(|slot| slot.cursor);
            let more = cursor.is_some_and(|cursor| state.log.read(cursor, BATCH_ITEMS, BATCH_BYTES, items));
            self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
            more
        };
        let more = reader.deliver_batch(read, now, &self.counters, effects);
        Drained { more, next: self.tick(reader, effects) }
    }

    /// Do what time has made due at the reader; when to come again. Part of a drain.
    pub fn tick(&self, reader: &Reader, effects: &mut Effects) -> Option<Duration> {
        let next = reader.tick(self.clock.now(), &self.counters, effects);
        self.forget(effects.closed.iter().map(|(identity, _)| identity.id));
        next
    }

    /// What is there for a subscriber whose consumer is here.
    pub fn take(&self, reader: &Reader, identity: &Identity, out: &mut Vec<Arc<Entry>>) -> Taken {
        self.take_for(reader, identity, out, false)
    }

    /// The same for a consumer that writes at once, on the reader's own thread: it need not come again to be
    /// parked. One that could not write everything says so ([`Reader::write_blocked`]) before the reader drains.
    pub fn take_last(&self, reader: &Reader, identity: &Identity, out: &mut Vec<Arc<Entry>>) -> Taken {
        self.take_for(reader, identity, out, true)
    }

    pub(super) fn take_for(
        &self,
        reader: &Reader,
        identity: &Identity,
        out: &mut Vec<Arc<Entry>>,
        parks: bool,
    ) -> Taken {
        let now = self.clock.now();
        let mut page = |replay: &mut crate::history::Replay| {
            let page = self.state.lock().history.page(replay, PAGE_ENTRIES, PAGE_BYTES, now);
            count(&self.counters.resets, u64::from(page.lost));
            page
        };
        reader.take(identity, now, &self.counters, &mut page, out, parks)
    }
}
