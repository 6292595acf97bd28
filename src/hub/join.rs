//! Registering subscribers: how their streams begin, and the topics they join and leave.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::request::{Question, Request};
use super::{Hub, Registered, State, ring};
use crate::change::Change;
use crate::control::ResetReason;
use crate::error::{Error, Result};
use crate::frame::Draft;
use crate::history::Past;
use crate::identity::Identity;
use crate::ids::{EventId, MAX_ID_BYTES, ReaderId, SubscriberId};
use crate::log::Item;
use crate::numbering::Place;
use crate::reader::Reader;
use crate::stats::count;
use crate::subscriber::{Plan, Snapshot, Subscriber};
use crate::topic::{Topic, TopicId, TopicIds, sorted};

/// Bytes of joins and leaves that may wait for a reader however small `backlog_bytes` is: about 10,000 of them.
const LEAST_CHANGES: usize = 1 << 20;

impl Hub {
    /// Register a subscriber. Everything published to its topics from now on is queued; events it missed are read from
    /// history before that. There is no gap, because its place in the log and its cursor are taken under one lock.
    ///
    /// # Errors
    /// [`Error::HubClosed`], [`Error::TooManySubscribers`], [`Error::UserFull`], [`Error::TooManyTopics`],
    /// [`Error::Expired`].
    ///
    /// # Panics
    /// When the system gives no random numbers.
    pub fn subscribe(&self, reader: &Arc<Reader>, request: &Request) -> Result<Arc<Identity>> {
        let (identity, waiting) = self.subscribe_silently(reader, request)?;
        ring(&waiting);
        Ok(identity)
    }

    /// The same for a caller that takes the first entries itself. Also returns the reader that has yet to learn of the
    /// subscriber: before it delivers anything, and when it has to do something for it without an event.
    ///
    /// # Errors
    /// As [`Hub::subscribe`].
    ///
    /// # Panics
    /// As [`Hub::subscribe`].
    pub fn subscribe_silently(
        &self,
        reader: &Arc<Reader>,
        request: &Request,
    ) -> Result<(Arc<Identity>, Option<Arc<Reader>>)> {
        let now = self.clock.now();
        let claim = request.claim.filter(|&claim| self.has_claim(claim));
        let id = claim.unwrap_or_else(SubscriberId::random);
        let (terms, times) = (self.terms(request), self.times(request, id.0, now)?);
        self.check_topics(0, request.topics.iter())?;
        let mut made = None;
        reader.insert(|key, turn| {
            let identity = Arc::new(Identity {
                id,
                user: request.user.clone(),
                group: request.group,
                reader: reader.id,
                key,
                successor: OnceLock::new(),
                recovered: OnceLock::new(),
                closed: OnceLock::new(),
                last_topics: OnceLock::new(),
                resolving: OnceLock::new(),
            });
            made = Some(identity.clone());
            Subscriber::new(identity, terms, times, now, turn)
        });
        let identity = made.expect("insert makes the subscriber");
        let waiting = match self.register(&identity, request, now) {
            Ok(Ok(plan)) => self.open(reader, &identity, plan, now),
            Ok(Err(Question(asked))) => {
                if let Some(broker) = self.broker.get() {
                    broker.resolve(id, asked);
                }
                None
            }
            Err(error) => {
                reader.remove(&identity);
                return Err(error);
            }
        };
        count(&self.counters.connected, 1);
        Ok((identity, waiting))
    }

    /// Open the stream of a subscriber whose start is resolved. Returns its reader, which has yet to be woken.
    pub(super) fn open(
        &self,
        reader: &Arc<Reader>,
        identity: &Arc<Identity>,
        plan: Plan,
        now: Duration,
    ) -> Option<Arc<Reader>> {
        let recovered = plan.recovered;
        match recovered {
            Some(true) => count(&self.counters.resumed, 1),
            Some(false) => count(&self.counters.resets, 1),
            None => {}
        }
        let (retry_ms, mut plan) = (self.retry_ms(identity.id), Some(plan));
        self.at_its_reader(reader, identity, |reader, identity| {
            let _ = identity.recovered.set(recovered);
            reader.open(identity, &mut plan, retry_ms, now)
        })
    }

    /// Act on a subscriber at its current reader, to which it may just be transferred. Returns that reader, which the
    /// caller wakes; `None` when the subscriber is gone.
    pub(super) fn at_its_reader(
        &self,
        reader: &Arc<Reader>,
        identity: &Arc<Identity>,
        mut act: impl FnMut(&Reader, &Arc<Identity>) -> bool,
    ) -> Option<Arc<Reader>> {
        let (mut reader, mut identity) = (reader.clone(), identity.clone());
        loop {
            if act(&reader, &identity) {
                return Some(reader);
            }
            let next = identity.successor.get().cloned()?;
            reader = self.state.lock().readers.get(&next.reader)?.reader.clone();
            identity = next;
        }
    }

    /// A client's own `retry:`, in milliseconds, spread by its random number.
    pub(super) fn retry_ms(&self, subscriber: SubscriberId) -> u64 {
        let (least, most) = self.config.reconnect_ms;
        least + (subscriber.0 >> 16) % (most - least + 1)
    }

    /// Register a subscriber. Returns how its stream begins, or the question that the broker must answer first.
    pub(super) fn register(
        &self,
        identity: &Arc<Identity>,
        request: &Request,
        now: Duration,
    ) -> Result<Result<Plan, Question>> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::HubClosed);
        }
        state.expire(self, now);
        state.check_changes(self)?;
        if let Err(error) = state.check_room(self, request) {
            drop(state);
            count(&self.counters.turned_away, 1);
            return Err(error);
        }
        let mut topics = state.intern(&self.config, &request.topics);
        for &topic in &topics {
            state.topics.enter(topic);
        }
        if !request.follows_run {
            topics.push(TopicId::BROADCAST);
        }
        let plan = match state.question(request, &topics, now) {
            Some(asked) => {
                let _ = identity.resolving.set(Arc::default());
                Err(asked)
            }
            None => Ok(state.plan(request, &topics, now)),
        };
        let unresolved = plan.is_err().then(|| Box::new(request.clone()));
        let registered = Registered {
            identity: identity.clone(),
            topics: topics.clone(),
            since: now,
            unresolved,
            closing: None,
            was_in_ended: false,
            fetched: None,
        };
        state.subscribers.insert(identity.id, Box::new(registered));
        if let (Some(users), Some(user)) = (&mut state.users, &identity.user) {
            users.enter(identity.id, user);
        }
        state.add_to_reader(identity.reader);
        if plan.is_ok() {
            self.queue_presence_of_stream(&state, identity, &topics, true);
        }
        let mut asks = false;
        // While it waits for the broker, it gets no topic's events, but heartbeats, events sent to it, and its end.
        if plan.is_ok() {
            let close = state.close_without_run(request, identity, &topics);
            asks = state.ask_for_ends(&topics);
            state.attach(identity, topics);
            state.log.extend_changes(close);
        } else {
            state.attach(identity, TopicIds::new());
        }
        state.sweep(self, now);
        drop(state);
        self.hand_over_presence();
        self.look_for_ends(asks);
        Ok(plan)
    }

    /// Add topics to a subscriber, from the next event on; those that have ended give it nothing. False when it is not
    /// registered, or all its topics have ended: its stream is about to end.
    ///
    /// # Errors
    /// [`Error::HubClosed`], [`Error::ReaderBehind`], [`Error::TooManyTopics`]; then nothing has changed.
    pub fn join(&self, subscriber: SubscriberId, topics: &[Topic]) -> Result<bool> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::HubClosed);
        }
        state.expire(self, self.clock.now());
        let Some(registered) = state.subscribers.get(&subscriber).filter(|found| !state.is_over(found))
        else {
            return Ok(false);
        };
        let has = sorted(&registered.topics);
        state.check_changes(self)?;
        let new = topics.iter().filter(|topic| {
            let known = state.topics.find(topic.as_str());
            known.is_none_or(|id| has.binary_search(&id).is_err() && !state.ends.has(id))
        });
        let named = has.iter().filter(|topic| **topic != TopicId::BROADCAST).count();
        self.check_topics(named, new)?;
        let mut topics = state.intern(&self.config, topics);
        topics.retain(|topic| has.binary_search(topic).is_err() && !state.ends.has(*topic));
        let asks = state.ask_for_ends(&topics);
        for &topic in &topics {
            state.topics.enter(topic);
        }
        let mut reader = None;
        if let Some(registered) = state.subscribers.get_mut(&subscriber) {
            registered.topics.extend_from_slice(&topics);
            let (identity, is_resolved) = (registered.identity.clone(), registered.unresolved.is_none());
            self.queue_presence(&state, &identity, &topics, true);
            // Until the broker has resolved its start it is in no topic; it joins all of them then.
            if is_resolved && !topics.is_empty() {
                state.log.push(Item::Change(Arc::new(Change::Join { subscriber, topics })));
                reader = state.reader_of(&identity);
            }
        }
        drop(state);
        self.hand_over_presence();
        self.look_for_ends(asks);
        ring(&reader);
        Ok(true)
    }

    /// Remove topics from a subscriber, from the next event on. False when it is not registered.
    pub fn leave(&self, subscriber: SubscriberId, topics: &[Topic]) -> bool {
        let mut state = self.state.lock();
        let mut topics: TopicIds =
            topics.iter().filter_map(|topic| state.topics.find(topic.as_str())).collect();
        topics.sort_unstable();
        topics.dedup();
        let State { subscribers, ends, .. } = &mut *state;
        let Some(registered) = subscribers.get_mut(&subscriber) else { return false };
        let has = sorted(&registered.topics);
        topics.retain(|topic| has.binary_search(topic).is_ok());
        registered.topics.retain(|topic| topics.binary_search(topic).is_err());
        registered.was_in_ended |= topics.iter().any(|topic| ends.has(*topic));
        let (identity, is_resolved) = (registered.identity.clone(), registered.unresolved.is_none());
        self.queue_presence(&state, &identity, &topics, false);
        for &topic in &topics {
            state.topics.exit(topic);
        }
        let mut reader = None;
        if is_resolved && !topics.is_empty() {
            state.log.push(Item::Change(Arc::new(Change::Leave { subscriber, topics })));
            reader = state.reader_of(&identity);
        }
        drop(state);
        self.hand_over_presence();
        ring(&reader);
        true
    }

    /// Deliver the application's initial events to a subscriber. The last one carries the cursor's id.
    ///
    /// # Errors
    /// [`Error::EventTooLarge`]; nothing was queued then.
    pub fn deliver_initial(&self, reader: &Reader, identity: &Identity, events: Vec<Draft>) -> Result<bool> {
        for event in &events {
            self.check_size(event)?;
        }
        Ok(reader.deliver_initial(identity, events, self.clock.now()))
    }
}

impl State {
    /// Refuse what adds changes to the log while a reader leaves too many of them unread.
    fn check_changes(&self, hub: &Hub) -> Result<()> {
        let (waiting, limit) = (self.log.waiting_change_bytes(), hub.config.backlog_bytes.max(LEAST_CHANGES));
        if waiting > limit { Err(Error::ReaderBehind { waiting, limit }) } else { Ok(()) }
    }

    /// The subscriber's reader, to be woken for a change: changes that wait for the next event would pile up.
    fn reader_of(&self, identity: &Identity) -> Option<Arc<Reader>> {
        self.readers.get(&identity.reader).map(|slot| slot.reader.clone())
    }

    /// It gets what is published from here on; where all its topics have ended, the end.
    pub(super) fn attach(&mut self, identity: &Identity, topics: TopicIds) {
        let (reader, subscriber, key) = (identity.reader, identity.id, identity.key);
        let (topics, finish) = self.unfinished(subscriber, topics);
        self.log.push(Item::Change(Arc::new(Change::Attach { reader, subscriber, key, topics })));
        self.log.extend_changes(finish);
    }

    /// How a stream begins, from what this process keeps.
    pub(super) fn plan(&mut self, request: &Request, topics: &TopicIds, now: Duration) -> Plan {
        let head = self.head_of(request, topics);
        let asked = request.given().map(|text| match self.place(text, request, topics) {
            Place::Nowhere(reason) => Err((reason, 0)),
            Place::Elsewhere(_) => Err((ResetReason::Evicted, head)),
            Place::Here(seq) if seq >= head => Ok(head),
            Place::Here(seq) if !self.history.reaches(topics, seq, now) => Err((ResetReason::Evicted, seq)),
            Place::Here(seq) => Ok(seq),
        });
        if let Some(Ok(seq)) = asked {
            let replay = (seq < head).then(|| self.history.resume(topics, seq, head));
            // One that is no longer remembered is that of the client.
            let id = self.numbering.id(seq).or_else(|| request.given().and_then(EventId::parse));
            let recovered = Some(true);
            return Plan {
                cursor: seq,
                id,
                reset: None,
                replay,
                fetch: None,
                snapshot: None,
                recovered,
                complete: true,
            };
        }
        self.plan_anew(request, asked.and_then(Result::err), topics, now)
    }

    /// How the stream of a newcomer begins, or of a client whose gap cannot be filled. `gap` is the reason, and the
    /// number behind which its remaining events begin.
    pub(super) fn plan_anew(
        &mut self,
        request: &Request,
        gap: Option<(ResetReason, u64)>,
        topics: &TopicIds,
        now: Duration,
    ) -> Plan {
        let head = self.head_of(request, topics);
        let given = request.given();
        let wants_all = request.past == Some(Past::All);
        let is_whole = wants_all && self.history.is_whole(topics, now);
        // A snapshot replaces everything that is lost.
        let complete = request.initial || !wants_all || is_whole;
        // A run of which something is lost, without control events, which would say so: that is a gap.
        let is_partial = request.follows_run && request.no_control && !complete;
        let gap = gap.or_else(|| is_partial.then_some((ResetReason::Evicted, head)));
        let requested = || given.filter(|id| id.len() <= MAX_ID_BYTES).map(Into::into);
        let reset = gap.map(|(reason, _)| (reason, requested()));
        let replay = match gap {
            // The gap is announced; the events of it that are left still follow, unless a snapshot does.
            Some((ResetReason::Evicted, seq)) if !request.initial => {
                Some(self.history.remains(topics, seq, head))
            }
            _ => request.past.map(|past| {
                let replay = self.history.past(topics, past, head, now);
                if is_whole { replay.promised() } else { replay }
            }),
        };
        let cursor = replay.as_ref().map_or(head, |replay| replay.from().min(head));
        let recovered = reset.as_ref().map(|_| false);
        let id = self.numbering.id(cursor);
        let snapshot = request.initial.then(|| Snapshot {
            cursor: (head, self.numbering.id(head)),
            since: self.history.resume(topics, head, head),
        });
        Plan { cursor, id, reset, replay, fetch: None, snapshot, recovered, complete }
    }

    /// Count one subscriber more at a reader, which has a cursor from now on.
    pub(super) fn add_to_reader(&mut self, reader: ReaderId) {
        let Self { readers, log, .. } = self;
        if let Some(slot) = readers.get_mut(&reader) {
            slot.subscribers += 1;
            slot.cursor.get_or_insert_with(|| log.add_reader());
        }
    }
}
