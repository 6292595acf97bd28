//! Compressing what clients take.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;

use super::state::State;
use crate::entry::Entry;
use crate::stats::{Counters, count};
use crate::subscriber::Subscriber;
use crate::topic::{TopicId, TopicIds};

/// The first streams of a topic that are searched for another user. A topic whose first streams are all of one user
/// counts as this user's own: the search has an end where a user has thousands of streams.
const LOOKED_AT: usize = 8;

impl State {
    /// Compress what a subscriber takes, which gets compressed bodies.
    pub(super) fn compress(
        &mut self,
        key: usize,
        now: Duration,
        counters: &Counters,
        out: &mut Vec<Arc<Entry>>,
    ) {
        let Self { subscribers, by_topic, zipper, .. } = self;
        let Some(mut zip) = subscribers.get_mut(key).and_then(|found| found.zip.take()) else { return };
        count(&counters.uncompressed_bytes, bytes_of(out));
        if let Some(found) = subscribers.get(key) {
            let shared = || shared_topics(subscribers, by_topic, key, found);
            zipper.zip(&mut zip, found.identity.id, found.lane(), shared, out, now);
        }
        count(&counters.compressed_bytes, bytes_of(out));
        if let Some(found) = subscribers.get_mut(key) {
            found.zip = Some(zip);
        }
    }
}

/// The topics, in order, that a subscriber shares with another user. Each stream without a user is another user's.
fn shared_topics(
    subscribers: &Slab<Subscriber>,
    by_topic: &FxHashMap<TopicId, Vec<usize>>,
    key: usize,
    subscriber: &Subscriber,
) -> TopicIds {
    let user = subscriber.identity.user.as_deref();
    let is_another = |other: &usize| {
        let theirs = subscribers.get(*other).and_then(|found| found.identity.user.as_deref());
        *other != key && (user.is_none() || theirs != user)
    };
    let is_shared =
        |topic: &TopicId| by_topic.get(topic).is_some_and(|keys| keys.iter().take(LOOKED_AT).any(is_another));
    let mut topics = subscriber.topic_ids();
    topics.retain(|topic| is_shared(topic));
    topics
}

fn bytes_of(entries: &[Arc<Entry>]) -> u64 {
    entries.iter().map(|entry| entry.len() as u64).sum()
}
