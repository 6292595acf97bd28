//! What one topic keeps: a ring of events, and a table of the newest value of each key.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::retention::Retention;
use crate::entry::Entry;
use crate::ids::StreamId;
use crate::key::Key;

/// The newest value of each key.
#[derive(Debug, Default)]
struct Table {
    /// By sequence number, so that it merges with the ring.
    values: BTreeMap<u64, Arc<Entry>>,
    /// By a keyed hash, because keys may come from users.
    newest: HashMap<Key, u64>,
}

#[derive(Debug)]
pub(super) struct Ring {
    /// Events without a key, and all events of a pinned ring.
    events: VecDeque<Arc<Entry>>,
    table: Option<Box<Table>>,
    pub(super) bytes: usize,
    pub(super) retention: Retention,
    /// The newest sequence number that the ring has lost. A value that a newer one of its key replaced is not lost.
    pub(super) lost: u64,
    /// Nothing that was lost up to this number belongs to the topic as it is now.
    pub(super) begun: u64,
    /// The id of that number in a broker's log, if the log goes on from there.
    pub(super) begun_id: Option<StreamId>,
    /// Everything is kept until the topic is forgotten, beside all budgets.
    pub(super) is_pinned: bool,
}

impl Ring {
    pub(super) fn new(retention: Retention, lost: u64) -> Self {
        Self {
            events: VecDeque::new(),
            table: None,
            bytes: 0,
            retention,
            lost,
            begun: 0,
            begun_id: None,
            is_pinned: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len() + self.table.as_ref().map_or(0, |table| table.values.len())
    }

    /// Keep an entry. Returns the older value that it replaces.
    pub(super) fn push(&mut self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        self.bytes += entry.len();
        let (Some(key), Some(seq)) = (entry.key().filter(|_| !self.is_pinned), entry.seq) else {
            self.events.push_back(entry.clone());
            return None;
        };
        let table = self.table.get_or_insert_default();
        table.values.insert(seq, entry.clone());
        let older = table.newest.insert(key.clone(), seq).and_then(|older| table.values.remove(&older))?;
        self.bytes -= older.len();
        Some(older)
    }

    /// Evict the oldest entry while the ring exceeds its limits. A value does not grow old: it is true until a newer
    /// one of its key comes.
    pub(super) fn evict(&mut self, now: Duration) -> Option<Arc<Entry>> {
        let Retention { count, bytes, age } = self.retention;
        let is_old = |event: &&Arc<Entry>| age.is_some_and(|age| now.saturating_sub(event.at) > age);
        let oldest = if self.len() > count || self.bytes > bytes {
            self.oldest()
        } else {
            self.events.front().filter(is_old)
        };
        let oldest = oldest?.clone();
        self.remove(&oldest).then_some(oldest)
    }

    /// Evict an entry, if it is the oldest event or a value. False when the ring does not hold it so.
    pub(super) fn remove(&mut self, entry: &Arc<Entry>) -> bool {
        let is_removed = match (entry.key().filter(|_| !self.is_pinned), entry.seq) {
            (Some(key), Some(seq)) => self.table.as_mut().is_some_and(|table| {
                let is_in = table.values.remove(&seq).is_some();
                if is_in {
                    table.newest.remove(key);
                }
                is_in
            }),
            _ if self.events.front().is_some_and(|front| Arc::ptr_eq(front, entry)) => {
                self.events.pop_front().is_some()
            }
            _ => false,
        };
        if is_removed {
            self.bytes -= entry.len();
            self.lost = self.lost.max(entry.seq.unwrap_or(0));
        }
        is_removed
    }

    /// Lose everything. Returns what it was.
    pub(super) fn clear(&mut self) -> Vec<Arc<Entry>> {
        self.bytes = 0;
        let mut entries: Vec<_> = std::mem::take(&mut self.events).into();
        entries.extend(self.table.take().into_iter().flat_map(|table| table.values.into_values()));
        let newest = entries.iter().filter_map(|entry| entry.seq).max();
        self.lost = self.lost.max(newest.unwrap_or(0));
        entries
    }

    /// The newest sequence number that it has kept.
    pub(super) fn newest(&self) -> u64 {
        let newest = self.nth_from_end(1).and_then(|entry| entry.seq);
        self.lost.max(newest.unwrap_or(0))
    }

    /// Everything it keeps, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.events.iter().chain(self.table.iter().flat_map(|table| table.values.values()))
    }

    /// The number of the event to which a broker's log gave this id, among events in the log's order.
    pub(super) fn find(&self, id: StreamId) -> Option<u64> {
        let id_of = |entry: &Arc<Entry>| entry.id.and_then(StreamId::from_event_id);
        let at = self.events.partition_point(|entry| id_of(entry) < Some(id));
        self.events.get(at).filter(|entry| id_of(entry) == Some(id))?.seq
    }

    /// The oldest entry.
    fn oldest(&self) -> Option<&Arc<Entry>> {
        let value = self.table.as_ref().and_then(|table| table.values.values().next());
        earlier(self.events.front(), value)
    }

    /// The first entry behind `seq`.
    pub(super) fn after(&self, seq: u64) -> Option<&Arc<Entry>> {
        self.cursor(seq).peek()
    }

    /// The `n`th entry from the end on; the oldest when there are fewer.
    pub(super) fn nth_from_end(&self, n: usize) -> Option<&Arc<Entry>> {
        let mut events = self.events.iter().rev().peekable();
        let mut values = self.table.iter().flat_map(|table| table.values.values().rev()).peekable();
        let mut found = None;
        for _ in 0..n {
            let is_value = match (events.peek(), values.peek()) {
                (Some(event), Some(value)) => value.seq > event.seq,
                (event, _) => event.is_none(),
            };
            found = if is_value { values.next() } else { events.next() }.or(found);
            if events.peek().is_none() && values.peek().is_none() {
                break;
            }
        }
        found
    }

    /// A place in the ring, behind `seq`.
    pub(super) fn cursor(&self, seq: u64) -> RingCursor<'_> {
        let at = self.events.partition_point(|entry| entry.seq <= Some(seq));
        let mut values = self.table.as_ref().map(|table| table.values.range(seq.saturating_add(1)..));
        let value = values.as_mut().and_then(Iterator::next).map(|(_, value)| value);
        RingCursor { events: &self.events, at, values, value }
    }
}

/// The earlier one of an event and a value.
fn earlier<'a>(event: Option<&'a Arc<Entry>>, value: Option<&'a Arc<Entry>>) -> Option<&'a Arc<Entry>> {
    match (event, value) {
        (Some(event), Some(value)) if value.seq < event.seq => Some(value),
        (None, value) => value,
        (event, _) => event,
    }
}

/// A place in a ring: its events and its values in one order.
pub(super) struct RingCursor<'a> {
    events: &'a VecDeque<Arc<Entry>>,
    at: usize,
    values: Option<std::collections::btree_map::Range<'a, u64, Arc<Entry>>>,
    value: Option<&'a Arc<Entry>>,
}

impl<'a> RingCursor<'a> {
    /// The next entry.
    pub(super) fn peek(&self) -> Option<&'a Arc<Entry>> {
        earlier(self.events.get(self.at), self.value)
    }

    /// Go past the entry with this number, if it is the next one.
    pub(super) fn pass(&mut self, seq: Option<u64>) {
        if self.value.is_some_and(|value| value.seq == seq) {
            self.value = self.values.as_mut().and_then(Iterator::next).map(|(_, value)| value);
        } else if self.events.get(self.at).is_some_and(|event| event.seq == seq) {
            self.at += 1;
        }
    }
}
