//! What evicted topics have lost.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// How many evicted topics are remembered by name.
const REMEMBERED: usize = 1 << 16;

/// The newest number that each evicted topic has lost.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// By the keyed hash of the topic's name, because names come from users.
    by_name: HashMap<u64, u64>,
    order: VecDeque<u64>,
    hasher: RandomState,
    /// Of all topics that are not remembered by name.
    others: u64,
    /// Of all topics.
    pub(super) newest: u64,
}

impl Forgotten {
    /// Nothing is known of any topic but that it may have lost what has this number.
    pub(super) fn all_lost(seq: u64) -> Self {
        Self { others: seq, newest: seq, ..Self::default() }
    }

    pub(super) fn add(&mut self, name: &str, lost: u64) {
        self.newest = self.newest.max(lost);
        if lost <= self.others {
            return;
        }
        let key = self.hasher.hash_one(name);
        if self.by_name.insert(key, lost).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(lost) = self.order.pop_front().and_then(|oldest| self.by_name.remove(&oldest))
        {
            self.others = self.others.max(lost);
        }
    }

    pub(super) fn of(&self, name: &str) -> u64 {
        self.by_name.get(&self.hasher.hash_one(name)).map_or(self.others, |&lost| lost.max(self.others))
    }
}
