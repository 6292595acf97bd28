//! A queue's entries: the first one in place, the others in memory of their own.
//!
//! Most queues never hold more than one entry: each event is taken before the next one comes. Among thousands of them
//! that one is where the queue is, in the processor's cache together with it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::Entry;

/// Entries, in order.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The entry before the rest, unless it was removed from there.
    first: Option<Arc<Entry>>,
    rest: VecDeque<Arc<Entry>>,
}

impl Entries {
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.first.iter().chain(&self.rest)
    }

    pub(super) fn front(&self) -> Option<&Arc<Entry>> {
        self.first.as_ref().or_else(|| self.rest.front())
    }

    pub(super) fn get(&self, at: usize) -> Option<&Arc<Entry>> {
        match (&self.first, at) {
            (Some(first), 0) => Some(first),
            (Some(_), at) => self.rest.get(at - 1),
            (None, at) => self.rest.get(at),
        }
    }

    #[inline]
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        if self.is_empty() {
            self.first = Some(entry);
        } else {
            self.rest.push_back(entry);
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<Arc<Entry>> {
        match (&self.first, at) {
            (Some(_), 0) => self.first.take(),
            (Some(_), at) => self.rest.remove(at - 1),
            (None, at) => self.rest.remove(at),
        }
    }

    /// Take the first `count` of them; there are as many.
    #[inline]
    pub(super) fn take(&mut self, count: usize) -> impl Iterator<Item = Arc<Entry>> {
        let first = if count > 0 { self.first.take() } else { None };
        let count = count - usize::from(first.is_some());
        first.into_iter().chain(self.rest.drain(..count))
    }

    /// Free the memory that a burst took.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.rest.capacity() > 64 {
            self.rest = VecDeque::new();
        }
    }
}
