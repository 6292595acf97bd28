//! Changes of presence on their way from the hub to the broker.
//!
//! A change is queued in the critical section of the hub that makes it, and handed to the broker after the hub is
//! unlocked. Two threads that did so each for itself could swap a join and the leave after it: one takes the first
//! change from the queue and is interrupted, the other hands over the second. So the queue is emptied under a lock
//! of its own, by one thread at a time. A thread that finds it locked waits rather than leave its change to the
//! other: when `subscribe` returns, the broker knows the subscriber, and [`Broker::present`] counts it.

use std::sync::Arc;

use crate::broker::{Broker, PresenceChange};
use crate::sync::{Rank, RankedMutex};

/// Changes that the broker has yet to get.
pub(super) struct PresenceQueue {
    changes: RankedMutex<Vec<PresenceChange>>,
    handing_over: RankedMutex<()>,
}

impl Default for PresenceQueue {
    fn default() -> Self {
        Self {
            changes: RankedMutex::new(Rank::PresenceQueue, Vec::new()),
            handing_over: RankedMutex::new(Rank::Presence, ()),
        }
    }
}

impl PresenceQueue {
    /// Append a change. The hub is locked, so that the queue has the order of the hub's changes.
    pub(super) fn push(&self, change: PresenceChange) {
        self.changes.lock().push(change);
    }

    /// Hand all changes to the broker. The hub is not locked.
    pub(super) fn hand_over(&self, broker: &Arc<dyn Broker>) {
        let _handing_over = self.handing_over.lock();
        let changes = std::mem::take(&mut *self.changes.lock());
        for change in changes {
            broker.presence_changed(change);
        }
    }
}
