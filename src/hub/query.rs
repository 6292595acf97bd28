//! Queries: subscribers, counters, and deadlines.

use std::sync::Arc;
use std::time::Duration;

use super::{Hub, Readers, Registered, State, ring};
use crate::identity::Identity;
use crate::ids::SubscriberId;
use crate::topic::TopicIds;

impl Hub {
    /// The identity of the subscriber with this public id.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Identity>> {
        let id = SubscriberId::from_public(name)?;
        let state = self.state.lock();
        state.subscribers.get(&id).map(|found| found.identity.clone())
    }

    /// The subscribers of a topic, or all, in no particular order.
    #[must_use]
    pub fn subscribers(&self, topic: Option<&str>) -> Vec<Arc<Identity>> {
        let state = self.state.lock();
        let topic = topic.map(|name| state.topics.find(name));
        let is_in = |found: &Registered| match topic {
            None => true,
            Some(id) => id.is_some_and(|id| found.topics.contains(&id)),
        };
        state.subscribers.values().filter(|found| is_in(found)).map(|found| found.identity.clone()).collect()
    }

    /// How many subscribers a topic has, or there are in all.
    #[must_use]
    pub fn count(&self, topic: Option<&str>) -> usize {
        let state = self.state.lock();
        match topic {
            None => state.subscribers.len(),
            Some(name) => {
                let id = state.topics.find(name);
                id.and_then(|id| state.topics.get(id)).map_or(0, |info| info.subscribers)
            }
        }
    }

    /// The topics of a subscriber, sorted; for one that is gone, those it had.
    #[must_use]
    pub fn topics_of(&self, identity: &Identity) -> Vec<Arc<str>> {
        let state = self.state.lock();
        match state.subscribers.get(&identity.id) {
            Some(registered) => state.names(&registered.topics),
            None => identity.last_topics.get().cloned().unwrap_or_default(),
        }
    }

    /// Counters and sizes, by name.
    #[must_use]
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.counters.snapshot();
        self.sweep_all();
        let state = self.state.lock();
        let sizes = [
            ("subscribers", state.subscribers.len()),
            ("topics", state.topics.len()),
            ("history_events", state.history.events()),
            ("history_bytes", state.history.bytes()),
            ("backlog_bytes", state.log.waiting_bytes()),
            ("readers", state.readers.len()),
        ];
        counters.push(("cursor", state.seq));
        drop(state);
        self.hand_over_presence();
        let queued = self.queued();
        counters.push(("queued_events", queued.0 as u64));
        counters.push(("queued_bytes", queued.1 as u64));
        let waiting = self.waiting_for_initial();
        counters.push(("initial_waiting", waiting.0 as u64));
        counters.push(("initial_bytes", waiting.1 as u64));
        counters.extend(sizes.map(|(name, value)| (name, value as u64)));
        counters
    }

    /// How many streams wait for the application's snapshot, and how many bytes wait behind these.
    fn waiting_for_initial(&self) -> (usize, usize) {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        let found = readers.iter().map(|reader| reader.waiting_for_initial());
        found.fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1))
    }

    /// How many events, and bytes, wait in the queues of subscribers. An event counts for each of them.
    fn queued(&self) -> (usize, usize) {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        let found = readers.iter().map(|reader| reader.queued());
        found.fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1))
    }

    /// How many consumers have not seen the end of their stream.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        readers.iter().map(|reader| reader.unfinished()).sum()
    }

    /// How long until a reader's next deadline, on the hub's clock.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        let soonest = readers.iter().filter_map(|reader| reader.next_deadline()).min();
        soonest.map(|at| at.saturating_sub(self.clock.now()))
    }

    /// Wake every reader: a test advanced the clock, or the hub ends.
    pub fn wake_all(&self) {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        ring(&readers);
    }
}

impl State {
    pub(super) fn names(&self, topics: &TopicIds) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> =
            topics.iter().filter_map(|&id| Some(self.topics.get(id)?.name.clone())).collect();
        names.sort_unstable();
        names
    }
}
