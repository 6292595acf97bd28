//! The leases that this process holds.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

struct Held {
    token: Arc<str>,
    /// By this process's clock, counted from before the store was asked.
    until: Instant,
}

/// The leases that this process holds.
#[derive(Default)]
pub struct Leases(Mutex<FxHashMap<Arc<str>, Held>>);

impl Leases {
    pub fn holds(&self, name: &str, token: &str) -> bool {
        let held = self.0.lock();
        held.get(name).is_some_and(|held| *held.token == *token && Instant::now() < held.until)
    }

    /// Stop renewing a lease. Returns whether it was held.
    pub fn forget(&self, name: &str, token: &str) -> bool {
        let mut held = self.0.lock();
        let is_its = held.get(name).is_some_and(|held| *held.token == *token);
        if is_its {
            held.remove(name);
        }
        is_its
    }

    pub fn add(&self, name: Arc<str>, token: Arc<str>, until: Instant) {
        self.0.lock().insert(name, Held { token, until });
    }

    pub fn renewed(&self, name: &str, token: &str, until: Instant) {
        if let Some(held) = self.0.lock().get_mut(name).filter(|held| *held.token == *token) {
            held.until = until;
        }
    }

    pub fn all(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.0.lock().iter().map(|(name, held)| (name.clone(), held.token.clone())).collect()
    }
}
