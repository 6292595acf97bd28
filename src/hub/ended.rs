//! The topics that have ended.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::ending::TopicEnd;
use crate::ids::SubscriberId;
use crate::topic::{TopicId, TopicIds};

/// The topics that have ended, until their names are free.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) by_topic: FxHashMap<TopicId, Arc<TopicEnd>>,
    /// When each name is free.
    pub(super) due: BinaryHeap<Reverse<(Duration, TopicId)>>,
    /// Runs that are to stop, until their drivers have asked.
    pub(super) stops: FxHashSet<TopicId>,
    /// Runs of which another process has the lease, and which it has yet to begin. Only with a broker.
    pub(super) awaited: FxHashSet<TopicId>,
    /// Topics of which the broker is asked, or was, whether they have ended by an entry that this process has not read.
    asked: FxHashSet<TopicId>,
    /// Those of them that the broker has yet to take. In order: the oldest topics first.
    unknown: BTreeSet<TopicId>,
    /// How long the names of runs are not free once they have ended. Only with a broker.
    pub(super) keeps: FxHashMap<TopicId, Duration>,
    /// Topics whose names are free, and that streams may still read, which end behind that: how many.
    read: FxHashMap<TopicId, usize>,
    /// What those streams read.
    readers: FxHashMap<SubscriberId, TopicIds>,
}

impl Ends {
    pub(super) fn has(&self, topic: TopicId) -> bool {
        self.by_topic.contains_key(&topic)
    }

    /// Ask the broker whether a topic has ended, unless it was asked before.
    pub(super) fn ask(&mut self, topic: TopicId) -> bool {
        let is_new = !self.has(topic) && self.asked.insert(topic);
        if is_new {
            self.unknown.insert(topic);
        }
        is_new
    }

    /// The broker did not answer.
    pub(super) fn ask_again(&mut self, topic: TopicId) {
        if self.asked.contains(&topic) && !self.has(topic) {
            self.unknown.insert(topic);
        }
    }

    /// The next topic of which the broker is to be asked.
    pub(super) fn take_unknown(&mut self) -> Option<TopicId> {
        self.unknown.pop_first()
    }

    /// Whatever the broker has answered on a topic counts no longer, or the topic is gone.
    pub(super) fn forget_answer(&mut self, topic: TopicId) {
        self.asked.remove(&topic);
        self.unknown.remove(&topic);
    }

    /// Whatever the broker has answered counts no longer.
    pub(super) fn forget_answers(&mut self) {
        self.asked.clear();
        self.unknown.clear();
    }

    /// A stream may have yet to read what a topic keeps whose name is free.
    pub(super) fn read_by(&mut self, subscriber: SubscriberId, topic: TopicId) {
        *self.read.entry(topic).or_default() += 1;
        self.readers.entry(subscriber).or_default().push(topic);
    }

    /// Whether a stream may have yet to read what a topic keeps whose name is free.
    pub(super) fn is_read(&self, topic: TopicId) -> bool {
        self.read.contains_key(&topic)
    }

    /// A stream has ended. Returns the topics that no other one reads, if their names are free.
    pub(super) fn has_read(&mut self, subscriber: SubscriberId) -> TopicIds {
        let mut topics = self.readers.remove(&subscriber).unwrap_or_default();
        topics.retain(|topic| {
            let Some(readers) = self.read.get_mut(topic) else { return false };
            *readers -= 1;
            let is_last = *readers == 0;
            if is_last {
                self.read.remove(topic);
            }
            is_last
        });
        topics
    }

    /// Whether the topic must be remembered.
    pub(super) fn needs(&self, topic: TopicId) -> bool {
        self.has(topic) || self.awaited.contains(&topic)
    }
}
