//! The topics that have ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::ending::TopicEnd;
use crate::topic::TopicId;

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
    /// How long the names of runs are not free once they have ended. Only with a broker.
    pub(super) keeps: FxHashMap<TopicId, Duration>,
}

impl Ends {
    pub(super) fn has(&self, topic: TopicId) -> bool {
        self.by_topic.contains_key(&topic)
    }

    /// Whether the topic must be remembered.
    pub(super) fn needs(&self, topic: TopicId) -> bool {
        self.has(topic) || self.awaited.contains(&topic)
    }
}
