//! The heartbeats of one reader's clients.

use std::sync::Arc;
use std::time::Duration;

use crate::control;
use crate::entry::{Cursor, Entry};
use crate::ids::EventId;

/// Heartbeats, made once and shared.
#[derive(Default)]
pub(super) struct Heartbeats {
    /// The newest number that was delivered, and its id.
    pub(super) cursor: u64,
    pub(super) id: Option<EventId>,
    comment: Option<Arc<Entry>>,
    with_id: Option<Arc<Entry>>,
}

impl Heartbeats {
    /// The heartbeat for a client that has everything up to `seen`.
    pub(super) fn get(&mut self, seen: u64, now: Duration) -> Arc<Entry> {
        let Some(id) = self.id.filter(|_| self.cursor > seen) else {
            return self.comment.get_or_insert_with(|| control::heartbeat(now)).clone();
        };
        let seq = self.cursor;
        match &self.with_id {
            Some(entry) if entry.seq == Some(seq) => entry.clone(),
            _ => {
                let entry = control::cursor(Cursor { seq, id }, now);
                self.with_id.insert(entry).clone()
            }
        }
    }
}
