//! What a reader's lock protects: its subscribers, and how they are found by topic.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;
use smallvec::SmallVec;

use super::effects::Effects;
use super::heartbeats::Heartbeats;
use super::next::Next;
use crate::compress::Zipper;
use crate::deadlines::Deadlines;
use crate::identity::{CloseReason, Identity};
use crate::ids::SubscriberId;
use crate::pace::Releases;
use crate::subscriber::{BrokerWakes, Membership, Subscriber, Terms};
use crate::topic::{TopicId, TopicIds, sorted};

#[derive(Default)]
pub(super) struct State {
    pub(super) subscribers: Slab<Subscriber>,
    pub(super) keys: FxHashMap<SubscriberId, usize>,
    pub(super) by_topic: FxHashMap<TopicId, Vec<usize>>,
    /// Consumers that another thread resumes.
    pub(super) resumed: Vec<usize>,
    pub(super) deadlines: Deadlines,
    /// Subscribers for which events are held.
    pub(super) releases: Releases,
    /// How often it drained, by which a consumer that does not come back is noticed.
    pub(super) turn: u64,
    /// How many events it delivered.
    pub(super) serial: u64,
    pub(super) heartbeats: Heartbeats,
    pub(super) zipper: Zipper,
    /// Those of the newest subscriber, for the next one.
    pub(super) latest_terms: Option<Arc<Terms>>,
}

impl State {
    /// The subscriber at its place, unless it is gone and another one has the place.
    #[inline]
    pub(super) fn subscriber(&mut self, identity: &Identity) -> Option<&mut Subscriber> {
        self.subscribers.get_mut(identity.key).filter(|found| found.identity.id == identity.id)
    }

    pub(super) fn next(&self) -> Next {
        Next { check: self.deadlines.next(), release: self.releases.next() }
    }

    pub(super) fn attach(&mut self, id: SubscriberId, key: usize, topics: &TopicIds, now: Duration) {
        let Some(subscriber) = self.subscribers.get(key) else { return };
        // Removed, or closed, since it was registered.
        if subscriber.identity.id != id || subscriber.identity.closed.get().is_some() {
            return;
        }
        let at = subscriber.deadline(now);
        self.deadlines.add(at, id, key);
        self.keys.insert(id, key);
        self.join(key, topics);
    }

    pub(super) fn join(&mut self, key: usize, topics: &TopicIds) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        self.zipper.topics_changed();
        let mut new = sorted(topics);
        new.dedup();
        new.retain(|topic| subscriber.place_of(*topic).is_none());
        for &topic in &new {
            let keys = self.by_topic.entry(topic).or_default();
            subscriber.topics.push(Membership { topic, place: keys.len() });
            keys.push(key);
        }
        subscriber.topics.sort_unstable_by_key(|found| found.topic);
    }

    pub(super) fn leave(&mut self, key: usize, topics: &TopicIds) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let topics = sorted(topics);
        let is_left = |found: &Membership| topics.binary_search(&found.topic).is_ok();
        let (left, stays) = std::mem::take(&mut subscriber.topics).into_iter().partition(is_left);
        subscriber.topics = stays;
        self.unindex(left);
    }

    /// Have a subscriber look whether its topics have all ended: then nothing more is delivered to it, and its consumer
    /// comes for the end.
    pub(super) fn finish_if(
        &mut self,
        key: usize,
        now: Duration,
        effects: &mut Effects,
        is_finished: impl FnOnce(&mut Subscriber, &TopicIds) -> bool,
    ) {
        let turn = self.turn;
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let topics = subscriber.topic_ids();
        if !is_finished(subscriber, &topics) {
            return;
        }
        if subscriber.resume(now, turn) {
            effects.resume.push(key);
        }
        let left = std::mem::take(&mut subscriber.topics);
        self.unindex(left);
    }

    /// Remove a subscriber from the lists of topics that it left. The last one in a list takes its place: a search
    /// would take too long when thousands end at once.
    fn unindex(&mut self, left: SmallVec<[Membership; 2]>) {
        if !left.is_empty() {
            self.zipper.topics_changed();
        }
        for Membership { topic, place } in left {
            let Some(keys) = self.by_topic.get_mut(&topic) else { continue };
            keys.swap_remove(place);
            if keys.is_empty() {
                self.by_topic.remove(&topic);
            } else if let Some(last) = keys.get(place).and_then(|&key| self.subscribers.get_mut(key))
                && let Some(found) = last.place_of(topic)
            {
                *found = place;
            }
        }
    }

    /// Remove a subscriber; its place is free.
    pub(super) fn remove(&mut self, identity: &Identity) -> Option<Subscriber> {
        self.subscriber(identity)?;
        self.detach(identity.key);
        let removed = self.subscribers.remove(identity.key);
        if self.deadlines.len() > 64 && self.deadlines.len() > 4 * self.subscribers.len() {
            let Self { deadlines, subscribers, .. } = self;
            deadlines.retain(|id, key| subscribers.get(key).is_some_and(|found| found.identity.id == id));
        }
        if self.releases.len() > 64 && self.releases.len() > 4 * self.subscribers.len() {
            let Self { releases, subscribers, .. } = self;
            releases.retain(|id, key| subscribers.get(key).is_some_and(|found| found.identity.id == id));
        }
        Some(removed)
    }

    /// Deliver nothing more to a subscriber; its queue stays.
    pub(super) fn detach(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        self.keys.remove(&subscriber.identity.id);
        let left = std::mem::take(&mut subscriber.topics);
        self.unindex(left);
    }

    pub(super) fn end(
        &mut self,
        key: usize,
        reason: CloseReason,
        now: Duration,
        effects: &mut Effects,
        wakes: &mut BrokerWakes,
    ) {
        let turn = self.turn;
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if subscriber.identity.closed.get().is_some() {
            return;
        }
        subscriber.close(reason.clone(), wakes);
        if subscriber.resume(now, turn) {
            effects.resume.push(key);
        }
        effects.closed.push((subscriber.identity.clone(), reason));
        self.detach(key);
    }
}
