//! The bounded log of what was published. Publishers append; each reader (an event loop, a reactor thread)
//! holds a cursor and takes what lies after it, in batches.
//!
//! # Lagging
//! Items stay until the slowest reader has read them, and their bytes count: beyond its limit the hub refuses to
//! publish, so no item is overwritten before a reader has read it. Changes of subscribers stand in the same order as
//! events, so a subscriber's first event is exactly the first one after it joined. The bytes of changes are counted
//! apart: beyond a limit of their own the hub refuses newcomers, not publishers.
//!
//! # Closing
//! A reader without subscribers has no cursor, and no item waits for it. Without cursors the log keeps nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::change::Change;
use crate::entry::Entry;

/// An item of the log.
#[derive(Debug, Clone)]
pub enum Item {
    /// An event to deliver.
    Event(Arc<Entry>),
    /// A change of subscribers.
    Change(Arc<Change>),
}

impl Item {
    /// When it was published, if it is an event.
    #[must_use]
    pub fn published(&self) -> Option<Duration> {
        match self {
            Self::Event(entry) => Some(entry.at),
            Self::Change(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Event(entry) => entry.len(),
            Self::Change(_) => 0,
        }
    }

    fn change_bytes(&self) -> usize {
        match self {
            Self::Event(_) => 0,
            Self::Change(change) => change.size(),
        }
    }
}

/// The log and its cursors.
#[derive(Debug, Default)]
pub struct Log {
    /// Position of `items[0]`.
    first: u64,
    items: VecDeque<Item>,
    bytes: usize,
    change_bytes: usize,
    cursors: slab::Slab<u64>,
}

/// A reader's place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorKey(usize);

impl Log {
    /// Add a cursor behind the last item.
    pub fn add_reader(&mut self) -> CursorKey {
        CursorKey(self.cursors.insert(self.head()))
    }

    /// Remove a cursor, and the items that waited for it alone.
    pub fn remove_reader(&mut self, key: CursorKey) {
        self.cursors.try_remove(key.0);
        self.trim();
    }

    /// Append an item; without cursors it is not kept.
    pub fn push(&mut self, item: Item) {
        if self.cursors.is_empty() {
            self.first += 1;
        } else {
            self.bytes += item.bytes();
            self.change_bytes += item.change_bytes();
            self.items.push_back(item);
        }
    }

    pub fn extend_changes(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.push(Item::Change(Arc::new(change)));
        }
    }

    /// Move the reader's cursor over at most `max_items` items and about `max_bytes` bytes (always at least
    /// one item), appending them to `out` in order; true when more is waiting.
    pub fn read(&mut self, key: CursorKey, max_items: usize, max_bytes: usize, out: &mut Vec<Item>) -> bool {
        let Some(cursor) = self.cursors.get_mut(key.0) else {
            return false;
        };
        let start = usize::try_from(*cursor - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for item in self.items.iter().skip(start).take(max_items) {
            bytes += item.bytes();
            out.push(item.clone());
            *cursor += 1;
            if bytes >= max_bytes {
                break;
            }
        }
        let more = *cursor < self.head();
        self.trim();
        more
    }

    /// Whether the reader has read everything.
    #[must_use]
    pub fn is_read(&self, key: CursorKey) -> bool {
        self.cursors.get(key.0).is_none_or(|&cursor| cursor == self.head())
    }

    /// The items that the reader has yet to read, in order; its cursor stays.
    pub fn ahead_of(&self, key: CursorKey) -> impl Iterator<Item = &Item> {
        let cursor = self.cursors.get(key.0).copied().unwrap_or(self.head());
        self.items.iter().skip(usize::try_from(cursor - self.first).unwrap_or(usize::MAX))
    }

    /// Bytes of events that the slowest reader has yet to read.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of changes that the slowest reader has yet to read.
    #[must_use]
    pub fn waiting_change_bytes(&self) -> usize {
        self.change_bytes
    }

    /// Position of the next item.
    fn head(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    fn trim(&mut self) {
        let slowest = self.cursors.iter().map(|(_, &cursor)| cursor).min().unwrap_or(self.head());
        while self.first < slowest {
            if let Some(item) = self.items.pop_front() {
                self.bytes -= item.bytes();
                self.change_bytes -= item.change_bytes();
            }
            self.first += 1;
        }
    }
}
