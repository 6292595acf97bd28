//! Topics that end. The end is an entry of the log: subscribers get what waits for them, then the end. Clients that
//! come later get what is kept, then the end. After a while the name is free again.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::{Hub, State, ring};
use crate::broker::letter::Step;
use crate::change::{Change, Finished};
use crate::ending::{Ending, TopicEnd};
use crate::error::{Error, Result};
use crate::identity::{CloseReason, Identity};
use crate::ids::{EventId, StreamId, SubscriberId};
use crate::log::Item;
use crate::numbering::Place;
use crate::reader::Reader;
use crate::topic::{Topic, TopicId, TopicIds};

impl Hub {
    /// End a topic: nothing is published to it any more. For `keep`, clients still get what it keeps, and its end;
    /// then the name is free.
    ///
    /// # Errors
    /// [`Error::TopicEnded`], [`Error::HubClosed`]; nothing has changed then.
    pub fn finish(&self, topic: &Topic, keep: Duration, ending: &Ending) -> Result<EventId> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::HubClosed);
        }
        state.expire(now);
        let ids = state.intern(&self.config, std::slice::from_ref(topic));
        state.check_unfinished(&ids)?;
        state.seq += 1;
        let id = EventId { epoch: self.epoch, seq: state.seq };
        for topic in ids {
            let end = TopicEnd { seq: id.seq, id: Some(id), ending: ending.clone() };
            let change = state.end_topic(topic, end, now + keep);
            state.log.push(Item::Change(Arc::new(change)));
        }
        let readers = state.listening();
        drop(state);
        ring(&readers);
        Ok(id)
    }

    /// A topic begins for which everything is kept until it has ended and its name is free: a run's. What it kept
    /// before goes.
    ///
    /// # Errors
    /// [`Error::TopicEnded`], [`Error::HubClosed`]; nothing has changed then.
    pub fn begin_whole(&self, topic: &Topic) -> Result<()> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::HubClosed);
        }
        state.expire(now);
        let ids = state.intern(&self.config, std::slice::from_ref(topic));
        state.check_unfinished(&ids)?;
        let seq = state.seq;
        for topic in ids {
            state.history.pin(topic, seq);
        }
        Ok(())
    }

    /// Whether everything of a topic is kept, or it has ended and its name is not free: there is something to follow.
    /// `None` while a hub does not know its place in the broker's log.
    #[must_use]
    pub fn is_followed(&self, topic: &str) -> Option<bool> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if !state.numbering.has_started() {
            return None;
        }
        state.expire(now);
        let found = state.topics.find(topic);
        Some(found.is_some_and(|id| state.history.is_pinned(id) || state.ends.has(id)))
    }

    /// How a topic ended, until its name is free.
    #[must_use]
    pub fn ending(&self, topic: &str) -> Option<Ending> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.expire(now);
        let end = state.topics.find(topic).and_then(|id| state.ends.by_topic.get(&id));
        end.map(|end| end.ending.clone())
    }

    /// The topics of runs that have not ended.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<str>> {
        let state = self.state.lock();
        let runs = state.history.pinned().filter(|id| !state.ends.has(*id));
        runs.filter_map(|id| Some(state.topics.get(id)?.name.clone())).collect()
    }

    /// Whether a run is to stop, by another process's wish; said once.
    #[must_use]
    pub fn take_stop(&self, topic: &str) -> bool {
        let mut state = self.state.lock();
        let Some(id) = state.topics.find(topic) else { return false };
        state.ends.stops.remove(&id)
    }

    /// Whether a client that saw this id last has everything that these topics will ever give.
    #[must_use]
    pub fn is_over(&self, topics: &[Topic], last_event_id: &str) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.expire(now);
        let end_of =
            |topic: &Topic| state.topics.find(topic.as_str()).and_then(|id| state.ends.by_topic.get(&id));
        let ends: Option<Vec<_>> = topics.iter().map(end_of).collect();
        let Some(last) = ends.and_then(|ends| ends.into_iter().max_by_key(|end| end.seq)) else {
            return false;
        };
        match state.numbering.find(last_event_id, state.seq) {
            Place::Here(seq) => seq >= last.seq,
            Place::Elsewhere(id) => last.id.and_then(StreamId::from_event_id).is_some_and(|end| end <= id),
            Place::Nowhere(_) => false,
        }
    }

    /// A subscriber was given everything of its topics, which have ended: its stream is over. `None` when it was
    /// closed before.
    pub fn close_finished(&self, reader: &Reader, identity: &Identity) -> Option<(CloseReason, bool)> {
        self.close(reader, identity, CloseReason::Ended)
    }
}

impl State {
    /// A step in the life of a topic, as the log has it.
    pub(super) fn live(
        &mut self,
        hub: &Hub,
        id: StreamId,
        topic: &Topic,
        step: Step,
        at: Duration,
    ) -> Option<Change> {
        self.reopen(topic);
        let seq = self.seq;
        let &topic = self.intern(&hub.config, std::slice::from_ref(topic)).first()?;
        match step {
            Step::Begin => self.history.pin(topic, seq),
            Step::Stop => drop(self.history.is_pinned(topic) && self.ends.stops.insert(topic)),
            Step::End { keep, ending } => {
                self.ends.stops.remove(&topic);
                return Some(self.end_topic(topic, TopicEnd { seq, id: id.event_id(), ending }, at + keep));
            }
        }
        None
    }

    /// The log has something for a topic: its name is free, whatever this process's clock says.
    pub(super) fn reopen(&mut self, topic: &Topic) {
        if let Some(id) = self.topics.find(topic.as_str()).filter(|id| self.ends.has(*id)) {
            self.free(id);
        }
    }

    fn free(&mut self, topic: TopicId) {
        if self.ends.by_topic.remove(&topic).is_none() {
            return;
        }
        if let Some(info) = self.topics.get(topic) {
            let name = info.name.clone();
            self.history.forget(topic, &name);
            self.topics.remove(topic);
        }
    }

    /// Free the names whose time is over.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some(&Reverse((at, topic))) = self.ends.due.peek()
            && at <= now
        {
            self.ends.due.pop();
            self.free(topic);
        }
    }

    /// Refuse what is meant for a topic that has ended.
    pub(super) fn check_unfinished(&self, topics: &[TopicId]) -> Result<()> {
        if self.ends.by_topic.is_empty() {
            return Ok(());
        }
        match topics.iter().find(|topic| self.ends.has(**topic)) {
            Some(&topic) => {
                let name = self.topics.get(topic).map_or("", |info| &info.name);
                Err(Error::TopicEnded { topic: name.into() })
            }
            None => Ok(()),
        }
    }

    /// A topic has ended. Gives what its subscribers are to learn.
    pub(super) fn end_topic(&mut self, topic: TopicId, end: TopicEnd, until: Duration) -> Change {
        let end = Arc::new(end);
        self.ends.by_topic.insert(topic, end.clone());
        self.ends.due.push(Reverse((until, topic)));
        Change::Finish { what: Finished::Topic(topic), end }
    }

    /// What a subscriber of these topics is dispatched by: without those that have ended, and without any when all
    /// have. Then also the change that ends its stream.
    pub(super) fn unfinished(
        &self,
        subscriber: SubscriberId,
        mut topics: TopicIds,
    ) -> (TopicIds, Option<Change>) {
        if self.ends.by_topic.is_empty() {
            return (topics, None);
        }
        let ends = topics.iter().filter_map(|topic| self.ends.by_topic.get(topic));
        let Some(end) = ends.max_by_key(|end| end.seq).cloned() else { return (topics, None) };
        topics.retain(|topic| !self.ends.has(*topic));
        if topics.iter().any(|&topic| topic != TopicId::BROADCAST) {
            return (topics, None);
        }
        (TopicIds::new(), Some(Change::Finish { what: Finished::Subscriber(subscriber), end }))
    }
}
