//! Draining: delivering batches of the log to subscribers' queues, and acting on deadlines.

use std::sync::Arc;
use std::time::Duration;

use super::effects::Effects;
use super::state::State;
use super::{Next, Reader};
use crate::change::{Change, Finished, Who};
use crate::entry::{Entry, Target};
use crate::identity::CloseReason;
use crate::ids::{ReaderId, SubscriberId};
use crate::log::Item;
use crate::queue::Pushed;
use crate::stats::{Counters, count};
use crate::subscriber::{BrokerWakes, Due, Waking, wake_brokers};
use crate::topic::{TopicId, TopicIds};

impl Reader {
    /// Deliver a batch of the log to the subscribers' queues. `read` moves the reader's cursor over the batch, with
    /// this reader locked: a subscriber that was transferred between reading and delivery would lose the batch.
    /// Returns what `read` returns.
    pub fn deliver_batch(
        &self,
        read: impl FnOnce(&mut Vec<Item>) -> bool,
        now: Duration,
        counters: &Counters,
        effects: &mut Effects,
    ) -> bool {
        let (mut items, mut wakes) = (Vec::new(), BrokerWakes::new());
        let mut state = self.state.lock();
        let more = read(&mut items);
        state.turn += u64::from(!items.is_empty());
        for item in &items {
            match item {
                Item::Event(entry) => state.deliver(entry, now, counters, effects, &mut wakes),
                Item::Change(change) => state.change(self.id, change, now, effects, &mut wakes),
            }
        }
        // They may be the last references to events, whose memory is then freed without the lock.
        drop(state);
        drop(items);
        wake_brokers(wakes);
        more
    }

    /// Do what time has made due; returns when to tick again.
    pub fn tick(&self, now: Duration, counters: &Counters, effects: &mut Effects) -> Next {
        let mut wakes = BrokerWakes::new();
        let mut state = self.state.lock();
        effects.resume.append(&mut state.resumed);
        while let Some((id, key)) = state.deadlines.pop_due(now) {
            state.check(id, key, now, counters, effects, &mut wakes);
        }
        while let Some(group) = state.releases.pop_due(now) {
            state.release(&group, now, effects);
        }
        state.zipper.forget(now);
        let next = state.next();
        drop(state);
        wake_brokers(wakes);
        next
    }
}

impl State {
    fn deliver(
        &mut self,
        entry: &Arc<Entry>,
        now: Duration,
        counters: &Counters,
        effects: &mut Effects,
        wakes: &mut BrokerWakes,
    ) {
        self.serial += 1;
        if let Some(seq) = entry.seq {
            self.heartbeats.cursor = seq;
            self.heartbeats.id = entry.id;
        }
        let mut overflowed = Vec::new();
        let State { subscribers, by_topic, serial, turn, keys, releases, .. } = self;
        let mut push = |key: usize| {
            let Some(subscriber) = subscribers.get_mut(key) else { return };
            if std::mem::replace(&mut subscriber.serial, *serial) == *serial {
                return;
            }
            match subscriber.push(entry, now, *turn, wakes) {
                Pushed::Queued => match subscriber.wake_for(entry, now, *turn) {
                    Waking::Resume => effects.resume.push(key),
                    Waking::Nothing => {}
                    Waking::At(at) => {
                        releases.add(at, subscriber.identity.id, key);
                    }
                },
                Pushed::Overflow => overflowed.push(key),
                pushed => pushed.count(counters),
            }
        };
        match &entry.target {
            Target::Topics(topics) => {
                topics.iter().filter_map(|topic| by_topic.get(topic)).flatten().for_each(|&key| push(key));
            }
            Target::All => by_topic.get(&TopicId::BROADCAST).into_iter().flatten().for_each(|&key| push(key)),
            Target::Everyone => by_topic.values().flatten().for_each(|&key| push(key)),
            Target::One(id) => keys.get(id).into_iter().for_each(|&key| push(key)),
        }
        for key in overflowed {
            count(&counters.overflowed, 1);
            self.end(key, CloseReason::Overflow, now, effects, wakes);
        }
    }

    fn change(
        &mut self,
        reader: ReaderId,
        change: &Change,
        now: Duration,
        effects: &mut Effects,
        wakes: &mut BrokerWakes,
    ) {
        match change {
            Change::Attach { reader: own, subscriber, key, topics } if *own == reader => {
                self.attach(*subscriber, *key, topics, now);
            }
            Change::Attach { .. } => {}
            Change::Join { subscriber, topics } => {
                if let Some(&key) = self.keys.get(subscriber) {
                    self.join(key, topics);
                }
            }
            Change::Leave { subscriber, topics } => {
                if let Some(&key) = self.keys.get(subscriber) {
                    self.leave(key, topics);
                    self.finish_if(key, now, effects, |found, topics| found.leave_topics(topics));
                }
            }
            Change::Finish { what: Finished::Topic(topic), end } => {
                for key in self.by_topic.get(topic).cloned().unwrap_or_default() {
                    self.leave(key, &TopicIds::from_slice(&[*topic]));
                    self.finish_if(key, now, effects, |found, topics| found.end_topic(end, topics));
                }
            }
            Change::Finish { what: Finished::Subscriber(subscriber), end } => {
                if let Some(&key) = self.keys.get(subscriber) {
                    self.finish_if(key, now, effects, |found, topics| found.end_topic(end, topics));
                }
            }
            Change::Close { who, reason } => {
                let is_one = |key: &usize| {
                    self.subscribers.get(*key).is_some_and(|found| who.matches(&found.identity))
                };
                let matching: Vec<usize> = match who {
                    Who::Id(id) => self.keys.get(id).copied().into_iter().collect(),
                    _ => self.keys.values().copied().filter(is_one).collect(),
                };
                for key in matching {
                    self.end(key, reason.clone(), now, effects, wakes);
                }
            }
        }
    }

    /// Resume the consumers of these subscribers, whose events were held until now.
    fn release(&mut self, group: &[(SubscriberId, usize)], now: Duration, effects: &mut Effects) {
        let State { subscribers, releases, turn, .. } = self;
        for &(id, key) in group {
            let Some(subscriber) = subscribers.get_mut(key).filter(|found| found.identity.id == id) else {
                continue;
            };
            match subscriber.come_due(now, *turn) {
                Waking::Resume => effects.resume.push(key),
                Waking::Nothing => {}
                Waking::At(at) => {
                    releases.add(at, id, key);
                }
            }
        }
    }

    fn check(
        &mut self,
        id: SubscriberId,
        key: usize,
        now: Duration,
        counters: &Counters,
        effects: &mut Effects,
        wakes: &mut BrokerWakes,
    ) {
        let turn = self.turn;
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if subscriber.identity.id != id || subscriber.identity.closed.get().is_some() {
            return;
        }
        match subscriber.due(now) {
            Due::Nothing => {}
            Due::AskForProgress => effects.progress.push(subscriber.identity.clone()),
            Due::Heartbeat => {
                count(&counters.heartbeats, 1);
                subscriber.beat(self.heartbeats.get(subscriber.heartbeat_from(), now), now);
                if subscriber.resume(now, turn) {
                    effects.resume.push(key);
                }
            }
            Due::Close(reason) => {
                if reason == CloseReason::Stalled {
                    count(&counters.stalled, 1);
                }
                return self.end(key, reason, now, effects, wakes);
            }
        }
        // While its consumer is away, a deadline may lie in the past: check again a little later.
        let at = subscriber.deadline(now).max(now + Duration::from_millis(10));
        self.deadlines.add(at, id, key);
    }
}
