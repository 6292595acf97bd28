//! Topics that end. The end is an entry of the log: subscribers receive what waits for them, then the end. Clients that
//! come later receive what is kept, then the end. After a while the name is free again.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::{Hub, Registered, Request, State, ring};
use crate::broker::letter::Step;
use crate::change::{Change, Finished, Who};
use crate::ending::{EndState, Ending, TopicEnd};
use crate::error::{Error, Result};
use crate::identity::{CloseReason, Identity};
use crate::ids::{EventId, StreamId, SubscriberId};
use crate::log::Item;
use crate::numbering::Place;
use crate::reader::Reader;
use crate::topic::{Topic, TopicId, TopicIds};

impl Hub {
    /// End a topic: nothing more is published to it. For `keep`, clients still receive what it keeps, and its end;
    /// then the name is free.
    ///
    /// # Errors
    /// [`Error::TopicEnded`], [`Error::HubClosed`]; then nothing has changed.
    pub fn finish(&self, topic: &Topic, keep: Duration, ending: &Ending) -> Result<EventId> {
        self.end_with(topic, keep, ending, |_| Ok(()))
    }

    /// End a run, as [`Hub::begin_whole`] has begun it.
    ///
    /// # Errors
    /// As [`Hub::finish`]; [`Error::TopicEnded`] also when the name is free, or that of another run.
    pub fn finish_run(
        &self,
        topic: &Topic,
        run: TopicId,
        keep: Duration,
        ending: &Ending,
    ) -> Result<EventId> {
        self.end_with(topic, keep, ending, |state| state.check_running(topic, run))
    }

    fn end_with(
        &self,
        topic: &Topic,
        keep: Duration,
        ending: &Ending,
        check: impl FnOnce(&State) -> Result<()>,
    ) -> Result<EventId> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let ids = state.open_topic(self, topic, now)?;
        check(&state)?;
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

    /// Begin the topic of a run: everything is kept until the topic has ended and its name is free. What it kept before
    /// is dropped. Returns what tells the run from others of this name.
    ///
    /// # Errors
    /// [`Error::TopicEnded`], [`Error::HubClosed`]; then nothing has changed.
    pub fn begin_whole(&self, topic: &Topic) -> Result<TopicId> {
        let mut state = self.state.lock();
        state.open_topic(self, topic, self.clock.now())?;
        let (run, _) = state.topics.intern(topic);
        // A number of its own: the last one may be the end of the run that had this name before.
        state.seq += 1;
        let seq = state.seq;
        state.history.pin(run, seq, None);
        Ok(run)
    }

    /// Whether a run, as [`Hub::begin_whole`] has begun it, has not ended.
    #[must_use]
    pub fn is_running(&self, topic: &Topic, run: TopicId) -> bool {
        self.state.lock().check_running(topic, run).is_ok()
    }

    /// Whether there is something to follow: everything of the topic is kept, or it has ended and its name is not free.
    /// `None` while the hub does not know its position in the broker's log.
    #[must_use]
    pub fn is_followed(&self, topic: &str) -> Option<bool> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if !state.numbering.has_started() {
            return None;
        }
        state.expire(self, now);
        let is_followed = state.topics.find(topic).is_some_and(|id| state.is_run(id));
        drop(state);
        self.hand_over_presence();
        Some(is_followed)
    }

    /// How a topic ended, until its name is free.
    #[must_use]
    pub fn ending(&self, topic: &str) -> Option<Ending> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.expire(self, now);
        let end = state.topics.find(topic).and_then(|id| state.ends.by_topic.get(&id));
        end.map(|end| end.ending.clone())
    }

    /// The topics of runs that have not ended, and how long each is kept after its end, if the hub knows that. One that
    /// has yet to begin leaves nothing to keep.
    #[must_use]
    pub fn running(&self) -> Vec<(Arc<str>, Option<Duration>)> {
        let state = self.state.lock();
        let begun = state.history.pinned().filter(|id| !state.ends.has(*id));
        let begun = begun.map(|id| (id, state.ends.keeps.get(&id).copied()));
        let awaited = state.ends.awaited.iter().map(|id| (*id, Some(Duration::ZERO)));
        let named = |(id, keep)| Some((state.topics.get(id)?.name.clone(), keep));
        begun.chain(awaited).filter_map(named).collect()
    }

    /// Follow a run whose beginning the broker's log no longer has: everything is kept from now on. If the topic has
    /// lost nothing, the beginning has yet to come, and its watchers wait for it.
    pub fn adopt_run(&self, topic: &Topic) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        for id in state.intern(&self.config, std::slice::from_ref(topic)) {
            if state.is_run(id) {
                continue;
            }
            if state.history.is_whole(&[id], now) {
                state.ends.awaited.insert(id);
            } else {
                state.history.pin_rest(id);
            }
        }
    }

    /// A topic has ended by an entry that this process has not read and will not read. Its name is free after `left`.
    pub fn adopt_end(&self, topic: &Topic, id: StreamId, left: Duration, ending: &Ending) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.expire(self, now);
        // Its place in the order, not the newest: what follows it here is not for a client of this topic.
        let seq = state.numbering.number(id).map_or(state.seq, |seq| seq.min(state.seq));
        for topic in state.intern(&self.config, std::slice::from_ref(topic)) {
            if !state.ends.has(topic) {
                let end = TopicEnd { seq, id: id.event_id(), ending: ending.clone() };
                let change = state.end_topic(topic, end, now + left);
                state.log.push(Item::Change(Arc::new(change)));
            }
        }
        let readers = state.listening();
        drop(state);
        self.hand_over_presence();
        ring(&readers);
    }

    /// For brokers: at most `most` topics with subscribers, each once, that may have ended by an entry that this process
    /// has not read and will not read. Empty when there are no more.
    #[must_use]
    pub fn take_unknown_ends(&self, most: usize) -> Vec<Topic> {
        let mut state = self.state.lock();
        let mut topics = Vec::new();
        while topics.len() < most
            && let Some(id) = state.ends.take_unknown()
        {
            match state.topics.get(id).filter(|info| info.subscribers > 0) {
                Some(info) => topics.extend(Topic::new(&info.name)),
                // Its next subscriber asks.
                None => state.ends.forget_answer(id),
            }
        }
        topics
    }

    /// For brokers: the store did not say whether these topics have ended. They are to be taken again.
    pub fn return_unknown_ends(&self, topics: &[Topic]) {
        let mut state = self.state.lock();
        for topic in topics {
            if let Some(id) = state.topics.find(topic.as_str()) {
                state.ends.ask_again(id);
            }
        }
    }

    /// Tell the broker that there are ends to look for, if there are. No lock is held.
    pub(super) fn look_for_ends(&self, is_needed: bool) {
        if let Some(broker) = self.broker.get().filter(|_| is_needed) {
            broker.look_for_ends();
        }
    }

    /// Whether another process has asked to stop a run; reported once.
    #[must_use]
    pub fn take_stop(&self, topic: &str) -> bool {
        let mut state = self.state.lock();
        let Some(id) = state.topics.find(topic) else { return false };
        state.ends.stops.remove(&id)
    }

    /// Whether a client has received everything that its topics will ever give it: the end of its stream, which alone
    /// carries its id. Where the end of the body says that they have ended, nothing carries it: then nothing may be left
    /// behind the client's own.
    #[must_use]
    pub fn has_everything(&self, request: &Request) -> bool {
        let Some(given) = request.given() else { return false };
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.expire(self, now);
        let ids: Option<TopicIds> =
            request.topics.iter().map(|topic| state.topics.find(topic.as_str())).collect();
        let has_everything = ids.is_some_and(|ids| {
            let end = state.end_of(&ids).and_then(|end| end.id);
            let has_end = end.is_some() && end == EventId::parse(given);
            has_end || state.is_at_silent_end(request, given, ids, now)
        });
        drop(state);
        self.hand_over_presence();
        has_everything
    }

    /// Close the stream of a subscriber that has received everything of its topics, which have ended. `None` when it
    /// was closed before.
    pub fn close_finished(&self, reader: &Reader, identity: &Identity) -> Option<(CloseReason, bool)> {
        self.close(reader, identity, CloseReason::Ended)
    }
}

impl State {
    fn is_run(&self, topic: TopicId) -> bool {
        self.history.is_pinned(topic) || self.ends.has(topic)
    }

    /// Look for the ends of those topics of a new stream that may have ended before what this process has read. Returns
    /// whether there are any.
    pub(super) fn ask_for_ends(&mut self, topics: &[TopicId]) -> bool {
        let mut is_any = false;
        if self.history.has_unread() {
            for &topic in topics.iter().filter(|topic| **topic != TopicId::BROADCAST) {
                is_any |= self.ends.ask(topic);
            }
        }
        is_any
    }

    /// The same for all topics that have subscribers: their ends may be in a gap of the log.
    pub(super) fn ask_for_all_ends(&mut self) -> bool {
        let used = self.topics.iter().filter(|(_, info)| info.subscribers > 0);
        let used: Vec<TopicId> = used.map(|(id, _)| id).collect();
        self.ask_for_ends(&used)
    }

    /// The end of a watcher's stream whose run is gone: its name was free before the stream began, and nothing would
    /// ever come. The client comes back, and learns that there is no such run.
    pub(super) fn close_without_run(
        &self,
        request: &Request,
        identity: &Identity,
        topics: &[TopicId],
    ) -> Option<Change> {
        let is_there = |&topic: &TopicId| self.is_run(topic) || self.ends.awaited.contains(&topic);
        let is_gone = request.follows_run && !topics.iter().any(is_there);
        is_gone.then(|| Change::Close { who: Who::Id(identity.id), reason: CloseReason::Ended })
    }

    /// Apply a step in the life of a topic, in the order of the log.
    pub(super) fn live(
        &mut self,
        hub: &Hub,
        id: StreamId,
        topic: &Topic,
        step: Step,
        at: Duration,
    ) -> Option<Change> {
        self.reopen(hub, topic);
        let seq = self.seq;
        let named = [topic.clone()];
        let &topic = self.intern(&hub.config, &named).first()?;
        match step {
            Step::Begin { keep } => {
                let lost = self.replace_run(hub, topic, id);
                // If there was one, its topic is gone, and the name has a new one.
                let &topic = self.intern(&hub.config, &named).first()?;
                self.history.pin(topic, seq, Some(id));
                self.ends.awaited.remove(&topic);
                self.ends.keeps.insert(topic, keep);
                return lost;
            }
            Step::Stop => drop(self.history.is_pinned(topic) && self.ends.stops.insert(topic)),
            Step::End { keep, ending } => {
                self.ends.stops.remove(&topic);
                return Some(self.end_topic(topic, TopicEnd { seq, id: id.event_id(), ending }, at + keep));
            }
        }
        None
    }

    /// A run begins, by the entry with this id. If one of its name has begun before and not ended, its process died, and
    /// nobody declared it lost in time: its lease was free, and the process that took it did not know of the run, whose
    /// beginning the log no longer has. Then it is lost now. Returns the change that its watchers must learn.
    fn replace_run(&mut self, hub: &Hub, topic: TopicId, id: StreamId) -> Option<Change> {
        let has_begun = self.ends.keeps.contains_key(&topic) || !self.history.keeps_nothing(topic);
        if !has_begun || !self.history.is_pinned(topic) {
            return None;
        }
        let ending = Ending { state: EndState::Lost, error: None };
        let end = TopicEnd { seq: self.seq, id: id.event_id(), ending };
        let change = self.end_topic(topic, end, hub.clock.now());
        self.free(hub, topic);
        Some(change)
    }

    /// The log has an entry for a topic, so its name is free, whatever this process's clock says.
    pub(super) fn reopen(&mut self, hub: &Hub, topic: &Topic) {
        if let Some(id) = self.topics.find(topic.as_str()).filter(|id| self.ends.has(*id)) {
            self.free(hub, id);
        }
    }

    fn free(&mut self, hub: &Hub, topic: TopicId) {
        if self.ends.by_topic.remove(&topic).is_none() {
            return;
        }
        self.ends.stops.remove(&topic);
        self.ends.forget_answer(topic);
        let Some(info) = self.topics.get(topic) else { return };
        let (name, is_used) = (info.name.clone(), info.subscribers > 0);
        let waiting = if is_used { self.take_out_all(hub, topic, &name) } else { Vec::new() };
        self.history.release_name(topic, &name);
        if !self.ends.is_read(topic) {
            self.history.drop_topic(topic);
        }
        self.topics.remove(topic);
        if let Some(name) = Topic::new(&name).ok().filter(|_| !waiting.is_empty()) {
            self.take_in_all(hub, &name, &waiting);
        }
    }

    /// Take the subscribers out of a topic whose name is free. Returns those that wait for the broker: they have yet to
    /// join the topic of this name, whichever that is then.
    fn take_out_all(&mut self, hub: &Hub, topic: TopicId, name: &Arc<str>) -> Vec<SubscriberId> {
        let (mut waiting, mut left) = (Vec::new(), Vec::new());
        let Self { subscribers, ends, .. } = self;
        for (&id, found) in subscribers {
            if !found.topics.contains(&topic) {
                continue;
            }
            found.topics.retain(|other| *other != topic);
            if found.unresolved.is_some() {
                waiting.push(id);
            } else {
                found.was_in_ended = true;
                if let Some(freed) = &mut found.fetched {
                    freed.0.push(name.clone());
                }
                left.push(found.identity.clone());
                if found.topics.iter().all(|&topic| topic == TopicId::BROADCAST || ends.has(topic)) {
                    ends.read_by(id, topic);
                }
            }
        }
        for identity in left {
            hub.queue_presence(self, &identity, &TopicIds::from_slice(&[topic]), false);
        }
        waiting
    }

    fn take_in_all(&mut self, hub: &Hub, name: &Topic, subscribers: &[SubscriberId]) {
        for topic in self.intern(&hub.config, std::slice::from_ref(name)) {
            for id in subscribers {
                if let Some(found) = self.subscribers.get_mut(id) {
                    found.topics.push(topic);
                    self.topics.enter(topic);
                }
            }
        }
    }

    /// The end of a stream in these topics: the last of theirs, if all have ended.
    pub(super) fn end_of(&self, topics: &[TopicId]) -> Option<&Arc<TopicEnd>> {
        if self.ends.by_topic.is_empty() {
            return None;
        }
        let named = topics.iter().filter(|topic| **topic != TopicId::BROADCAST);
        let ends: Option<SmallVec<[_; 4]>> = named.map(|topic| self.ends.by_topic.get(topic)).collect();
        ends?.into_iter().max_by_key(|end| end.order())
    }

    /// The number up to which a new stream in these topics receives what is kept: the newest one. A stream whose topics
    /// have all ended begins before their end, as it would have then: a client that had the end's id, or a later one,
    /// would not come back for the end if it were cut before that. Without last events there is nothing to come for.
    pub(super) fn head_of(&self, request: &Request, topics: &[TopicId]) -> u64 {
        self.end_of(topics).map_or(self.seq, |end| {
            let has_tail = end.ending.has_tail(request.format, !request.no_control);
            end.seq.saturating_sub(u64::from(has_tail))
        })
    }

    /// Whether these topics have ended, a client is not told so by an event, and none is left for it behind its id.
    fn is_at_silent_end(&mut self, request: &Request, id: &str, mut topics: TopicIds, now: Duration) -> bool {
        let is_silent = |end: &Arc<TopicEnd>| !end.ending.has_tail(request.format, !request.no_control);
        if !self.end_of(&topics).is_some_and(is_silent) {
            return false;
        }
        if !request.follows_run {
            topics.push(TopicId::BROADCAST);
        }
        let head = self.head_of(request, &topics);
        match self.place(id, request, &topics) {
            Place::Here(seq) if seq >= head => true,
            Place::Here(seq) => {
                self.history.reaches(&topics, seq, now) && !self.history.has_between(&topics, seq, head)
            }
            Place::Elsewhere(_) | Place::Nowhere(_) => false,
        }
    }

    /// Whether all topics of a subscriber have ended: its stream ends, and nothing new goes to it.
    pub(super) fn is_over(&self, registered: &Registered) -> bool {
        let mut named = registered.topics.iter().filter(|topic| **topic != TopicId::BROADCAST).peekable();
        let is_in_ended = registered.was_in_ended || named.peek().is_some();
        is_in_ended && registered.unresolved.is_none() && named.all(|topic| self.ends.has(*topic))
    }

    /// Free the names whose time is over.
    pub(super) fn expire(&mut self, hub: &Hub, now: Duration) {
        while let Some(&Reverse((at, topic))) = self.ends.due.peek()
            && at <= now
        {
            self.ends.due.pop();
            self.free(hub, topic);
        }
    }

    /// The topic of this name, which has not ended.
    fn open_topic(&mut self, hub: &Hub, topic: &Topic, now: Duration) -> Result<TopicIds> {
        if self.closing {
            return Err(Error::HubClosed);
        }
        self.expire(hub, now);
        let ids = self.intern(&hub.config, std::slice::from_ref(topic));
        self.check_unfinished(&ids)?;
        Ok(ids)
    }

    /// Refuse what is meant for a run that has ended.
    pub(super) fn check_running(&self, topic: &Topic, run: TopicId) -> Result<()> {
        let is_running = self.topics.find(topic.as_str()) == Some(run) && !self.ends.has(run);
        if is_running { Ok(()) } else { Err(Error::TopicEnded { topic: topic.as_str().into() }) }
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

    /// End a topic. Returns the change that its subscribers must learn. A run whose topic the application ends is one
    /// that was stopped: to its watchers, the end of a topic is that of a run which is done.
    pub(super) fn end_topic(&mut self, topic: TopicId, mut end: TopicEnd, until: Duration) -> Change {
        if end.ending.state == EndState::Ended && self.history.is_pinned(topic) {
            end.ending.state = EndState::Stopped;
        }
        let end = Arc::new(end);
        self.ends.keeps.remove(&topic);
        self.ends.awaited.remove(&topic);
        self.ends.by_topic.insert(topic, end.clone());
        self.ends.due.push(Reverse((until, topic)));
        Change::Finish { what: Finished::Topic(topic), end }
    }

    /// The topics by which a subscriber of these is dispatched: those that have not ended. If some have ended, the
    /// change that tells its reader so is returned, too; if all have, there are no topics, and its stream ends.
    pub(super) fn unfinished(
        &self,
        subscriber: SubscriberId,
        mut topics: TopicIds,
    ) -> (TopicIds, Option<Change>) {
        if self.ends.by_topic.is_empty() {
            return (topics, None);
        }
        let ends = topics.iter().filter_map(|topic| self.ends.by_topic.get(topic));
        let Some(end) = ends.max_by_key(|end| end.order()).cloned() else { return (topics, None) };
        topics.retain(|topic| !self.ends.has(*topic));
        if topics.iter().all(|&topic| topic == TopicId::BROADCAST) {
            topics = TopicIds::new();
        }
        (topics, Some(Change::Finish { what: Finished::Subscriber(subscriber), end }))
    }
}
