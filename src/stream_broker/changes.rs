//! Changes of presence that are not written yet.

use crate::broker::PresenceChange;

/// Changes beyond which everything is written anew when the connection is back.
const MOST_CHANGES: usize = 100_000;

/// Changes that are not written yet.
pub struct Changes {
    list: Vec<PresenceChange>,
    /// The store may have anything: write everything anew.
    is_stale: bool,
    /// The store may have lost its table: ask it soon.
    is_doubted: bool,
    /// This process ever had a subscriber.
    pub is_used: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self { list: Vec::new(), is_stale: true, is_doubted: false, is_used: false }
    }
}

impl Changes {
    /// Write everything anew: the connection ended, and the next may lead to a server that has lost the newest changes.
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

    /// Take the changes that are to be written; `None` when everything is.
    pub fn take(&mut self) -> Option<Vec<PresenceChange>> {
        let none = Self { list: Vec::new(), is_stale: false, is_doubted: false, is_used: self.is_used };
        let Self { list, is_stale, .. } = std::mem::replace(self, none);
        (!is_stale).then_some(list)
    }

    /// Look at the table: something else of the hub's was found missing.
    pub fn doubt(&mut self) {
        self.is_doubted = true;
    }

    pub fn wait(&self) -> bool {
        self.is_stale || self.is_doubted || !self.list.is_empty()
    }
}
