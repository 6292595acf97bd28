//! Changes of presence that are not written yet.

use crate::broker::PresenceChange;

/// Number of changes beyond which the whole table is written once the connection is back.
const MOST_CHANGES: usize = 100_000;

/// Changes that are not written yet.
pub struct Changes {
    list: Vec<PresenceChange>,
    /// The store's table is unknown: write all of it.
    is_stale: bool,
    /// The store may have lost its table: check soon.
    is_doubted: bool,
    /// Whether this process ever had a subscriber.
    pub is_used: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self { list: Vec::new(), is_stale: true, is_doubted: false, is_used: false }
    }
}

impl Changes {
    /// The connection ended, and the next may lead to a server that has lost the newest changes: write the whole table.
    pub fn outdate(&mut self) {
        self.list = Vec::new();
        self.is_stale = true;
    }

    /// Note a change; it is written soon.
    pub fn note(&mut self, change: PresenceChange) {
        self.is_used = true;
        if self.is_stale {
            return;
        }
        if self.list.len() >= MOST_CHANGES {
            self.outdate();
            return;
        }
        self.list.push(change);
    }

    /// Take the changes that must be written; `None` for the whole table.
    pub fn take(&mut self) -> Option<Vec<PresenceChange>> {
        let none = Self { list: Vec::new(), is_stale: false, is_doubted: false, is_used: self.is_used };
        let Self { list, is_stale, .. } = std::mem::replace(self, none);
        (!is_stale).then_some(list)
    }

    /// Check the table: other data of the hub was found missing.
    pub fn doubt(&mut self) {
        self.is_doubted = true;
    }

    pub fn wait(&self) -> bool {
        self.is_stale || self.is_doubted || !self.list.is_empty()
    }
}
