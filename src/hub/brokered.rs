//! A hub with a broker, whose log gives the hub its order: the calls between the two.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::request::{Question, Request};
use super::{Freed, Hub, Registered, State, ring};
use crate::broker::Broker;
use crate::broker::letter::{Arrived, Fence, Letter, Step, To, Topics, Whose};
use crate::change::Change;
use crate::clock::since_epoch;
use crate::control::{self, ResetReason};
use crate::entry::{Cursor, Entry, Target};
use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::ids::{EventId, StreamId, SubscriberId};
use crate::key::Key;
use crate::log::Item;
use crate::numbering::{Numbering, Place};
use crate::outcome::Outcome;
use crate::stats::count;
use crate::subscriber::{Fetch, Fetched, Plan};
use crate::sync::Ordering;
use crate::topic::{Topic, TopicId, TopicIds};
use crate::waker::Wake;

/// A broker's thread writes to at most this many clients itself, before it reads on: fewer than a thread of theirs
/// would write to between two looks at its sockets.
const FEW: usize = 64;
/// The most bytes of events that it writes to them: a page of small events.
const SMALL: usize = 96 << 10;
/// This many small events cost a client about as much as the write that takes them to it.
const PER_WRITE: usize = 64;

/// Where a client starts, as the broker resolved it.
pub enum Verdict {
    /// In this hub's own order, or at its end for a newcomer.
    Here,
    /// Behind this id. The broker still has everything after it, this process does not: the client's gap is fetched, a
    /// piece whenever the waker is woken.
    Kept(StreamId, Box<dyn Wake>),
    /// The client's gap cannot be filled.
    Lost(ResetReason),
    /// Not known for a while: the stream opens.
    Later,
}

/// One entry of the broker's log, ready to be appended.
enum Delivery {
    Event(EventId, To, Frame),
    Kick(Whose, Arc<str>),
    Life(Topic, Step),
}

impl Delivery {
    fn new(id: StreamId, letter: Letter) -> Option<Self> {
        Some(match letter {
            Letter::Event { to: to @ To::One(_), draft } => Self::Event(id.event_id()?, to, draft.seal(None)),
            Letter::Event { to, draft } => {
                let id = id.event_id()?;
                Self::Event(id, to, draft.seal(Some(id)))
            }
            Letter::Kick { whose, reason } => Self::Kick(whose, reason),
            Letter::Life { topic, step } => Self::Life(topic, step),
            Letter::Release { .. } => return None,
        })
    }
}

impl Hub {
    /// Give the hub its broker; it has only one.
    pub fn set_broker(&self, broker: Arc<dyn Broker>) {
        let _ = self.broker.set(broker);
    }

    /// The broker, once it was started.
    #[must_use]
    pub fn broker(&self) -> Option<&Arc<dyn Broker>> {
        self.broker.get()
    }

    /// Post a letter through the broker. Its outcome becomes known later.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub fn post(&self, letter: Letter) -> Result<Arc<Outcome>> {
        self.post_fenced(letter, None)
    }

    /// The same, if something holds at the moment at which the log takes it.
    ///
    /// # Errors
    /// As [`Hub::post`].
    pub fn post_fenced(&self, letter: Letter, fence: Option<Fence>) -> Result<Arc<Outcome>> {
        if let Letter::Event { to, draft } = &letter {
            if matches!(to, To::Topics(topics) if topics.is_empty()) {
                return Err(Error::no_topics());
            }
            self.check_size(draft)?;
        }
        let Some(broker) = self.broker.get().filter(|_| !self.state.lock().closing) else {
            return Err(Error::HubClosed);
        };
        broker.post(letter, fence).inspect_err(|_| count(&self.counters.refused, 1))
    }

    /// Refuse publications and subscribers from now on.
    pub fn refuse(&self) {
        self.state.lock().closing = true;
    }

    /// The position of the broker's log is known: the hub's order begins behind `base`. The entries that the log keeps
    /// behind it, `kept`, become history and are not delivered.
    pub fn open_log(&self, base: StreamId, kept: Vec<(Arrived, Duration)>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.restart_behind(base, base.is_beginning());
        let mut last = None;
        for (arrived, age) in kept {
            let delivery = arrived.letter.ok().and_then(|letter| Delivery::new(arrived.id, letter));
            state.follow(self, arrived.id, delivery, now.saturating_sub(age), &mut last);
        }
    }

    /// Append the next entries of the broker's log. The caller has proven that none is missing. Returns the topics
    /// whose runs were lost because another run of their name has begun. Called by a thread that never runs Python: where
    /// that is little, it writes to the clients itself, which costs less than to wake another thread.
    pub fn deliver(&self, arrived: Vec<(StreamId, Letter)>) -> Vec<Topic> {
        let now = self.clock.now();
        if let Some((oldest, _)) = arrived.first() {
            // Brokers make their ids by the time of day.
            self.measures
                .broker_lag
                .observe_time(since_epoch().saturating_sub(Duration::from_millis(oldest.ms)));
        }
        let is_small = arrived.iter().map(|(_, letter)| letter.len()).sum::<usize>() <= SMALL;
        let mut most = if is_small { FEW / (1 + arrived.len() / PER_WRITE) } else { 0 };
        let deliveries: Vec<_> =
            arrived.into_iter().map(|(id, letter)| (id, Delivery::new(id, letter))).collect();
        let published = deliveries.iter().filter(|(_, it)| matches!(it, Some(Delivery::Event(..)))).count();
        let (mut lost, mut topic) = (Vec::new(), None);
        let mut state = self.state.lock();
        for (id, delivery) in deliveries {
            let begun = match &delivery {
                Some(Delivery::Life(topic, Step::Begin { .. })) => Some(topic.clone()),
                _ => None,
            };
            if let Some(item) = state.follow(self, id, delivery, now, &mut topic) {
                lost.extend(begun);
                state.log.push(item);
            }
        }
        self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
        let readers = state.listening();
        state.sweep(self, now);
        drop(state);
        self.hand_over_presence();
        count(&self.counters.published, published as u64);
        for reader in &readers {
            most = most.saturating_sub(reader.bell.ring_or_serve(most));
        }
        lost
    }

    /// The next entry of the broker's log does not follow the last one: reset all clients, and go on behind `base`. In
    /// between, topics may have ended, and streams that this process closes.
    pub fn break_log(&self, base: StreamId) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let seq = state.restart_behind(base, false);
        let reset = state.subscribers.values().filter(|found| found.unresolved.is_none()).count();
        let cursor = base.event_id().map(|id| Cursor { seq, id });
        state.log.push(Item::Event(control::broken(cursor, now)));
        let closing = state.close_all_closing();
        state.log.extend_changes(closing);
        let asks = state.ask_for_all_ends();
        let readers = state.listening();
        drop(state);
        self.look_for_ends(asks);
        count(&self.counters.resets, reset as u64);
        ring(&readers);
    }

    /// Whether this process once followed the broker's log up to `id`.
    #[must_use]
    pub fn has_followed(&self, id: StreamId) -> bool {
        self.state.lock().numbering.has_followed(id)
    }

    /// Whether readers are so far behind that the broker should read no more of its log now.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_pressed(0)
    }

    /// Whether this process can resolve by itself where a subscriber starts.
    #[must_use]
    pub fn knows_start(&self, subscriber: SubscriberId) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let Some(registered) = state.subscribers.get(&subscriber) else { return true };
        let Some(request) = registered.unresolved.clone() else { return true };
        let topics = registered.topics.clone();
        state.question(&request, &topics, now).is_none()
    }

    /// Whether a subscriber is registered.
    #[must_use]
    pub fn has(&self, subscriber: SubscriberId) -> bool {
        self.state.lock().subscribers.contains_key(&subscriber)
    }

    /// Resolve where a client starts. Returns the end of the gap that must be fetched for it, if there is one.
    pub fn resolve(&self, subscriber: SubscriberId, verdict: Verdict) -> Option<StreamId> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let registered = state.subscribers.get_mut(&subscriber)?;
        let identity = registered.identity.clone();
        let topics = registered.topics.clone();
        registered.unresolved.as_ref()?;
        let reader = state.readers.get(&identity.reader)?.reader.clone();
        if let Verdict::Later = verdict {
            drop(state);
            let retry_ms = self.retry_ms(subscriber);
            ring(&self.at_its_reader(&reader, &identity, |reader, identity| {
                reader.open_early(identity, retry_ms, now)
            }));
            return None;
        }
        let fetches = matches!(verdict, Verdict::Kept(..));
        let registered = state.subscribers.get_mut(&subscriber)?;
        let request = registered.unresolved.take()?;
        registered.fetched = fetches.then(Box::default);
        // Behind the end of its topics there is nothing for it.
        let end = state.end_of(&topics).and_then(|end| end.id).and_then(StreamId::from_event_id);
        let end = end.or(state.numbering.end());
        let plan = match verdict {
            Verdict::Kept(id, next) => state.plan_fetch(id, next, &request, &topics),
            Verdict::Lost(reason) => {
                let seq = state.seq;
                state.plan_anew(&request, Some((reason, seq)), &topics, now)
            }
            Verdict::Here | Verdict::Later => state.plan(&request, &topics, now),
        };
        // Others see a subscriber only from its place in the order on: it misses nothing published from then on.
        self.queue_presence_of_stream(&state, &identity, &topics, true);
        let close = state.close_without_run(&request, &identity, &topics);
        let asks = state.ask_for_ends(&topics);
        let (topics, finish) = state.unfinished(subscriber, topics);
        state.log.push(Item::Change(Arc::new(Change::Join { subscriber, topics })));
        state.log.extend_changes(finish.or(close));
        drop(state);
        self.hand_over_presence();
        self.look_for_ends(asks);
        ring(&self.open(&reader, &identity, plan, now));
        if let Some(resolving) = identity.resolving.get() {
            resolving.complete(Ok(None));
        }
        end.filter(|_| fetches)
    }

    /// Deliver a piece of a client's gap; false when the client no longer waits for it.
    pub fn deliver_piece(
        &self,
        subscriber: SubscriberId,
        arrived: Vec<Arrived>,
        mut lost: bool,
        done: bool,
    ) -> bool {
        let now = self.clock.now();
        let state = self.state.lock();
        let Some(registered) = state.subscribers.get(&subscriber) else { return false };
        let identity = registered.identity.clone();
        let Some(slot) = state.readers.get(&identity.reader) else { return false };
        let reader = slot.reader.clone();
        let mut entries = Vec::new();
        for Arrived { id, letter, .. } in arrived {
            let (to, draft) = match letter {
                Ok(Letter::Event { to, draft }) => (to, draft),
                // A watcher's id was that of an earlier run.
                Ok(Letter::Life { topic, step: Step::Begin { .. } })
                    if registered.follows_run() && state.is_in(registered, &topic) =>
                {
                    entries.clear();
                    lost = true;
                    continue;
                }
                _ => continue,
            };
            let is_for_it = match &to {
                To::All => !registered.follows_run(),
                // Events sent to it wait in its queue since it was registered.
                To::One(_) => false,
                To::Topics(names) => names.iter().any(|name| state.is_in(registered, name)),
            };
            let id = id.event_id();
            if is_for_it {
                let frame = draft.seal(id);
                entries.push((to, Arc::new(Entry::new(None, Target::One(subscriber), now, frame).named(id))));
            }
        }
        let arrived = entries.len();
        let entries = without_superseded(entries);
        drop(state);
        count(&self.counters.superseded, (arrived - entries.len()) as u64);
        count(&self.counters.resets, u64::from(lost));
        let mut piece = Some(Fetched { entries, lost, done });
        ring(&self.at_its_reader(&reader, &identity, |reader, identity| {
            reader.deliver_piece(identity, &mut piece, now)
        }));
        if (done || piece.is_some())
            && let Some(registered) = self.state.lock().subscribers.get_mut(&subscriber)
        {
            registered.fetched = None;
        }
        piece.is_none()
    }
}

impl State {
    /// Begin a new order behind `base`, before which nothing can be replayed. Returns the number of `base`.
    fn restart_behind(&mut self, base: StreamId, is_first: bool) -> u64 {
        self.seq += 1;
        self.numbering.begin(base, self.seq);
        self.history.begin(self.seq, is_first);
        self.ends.forget_answers();
        self.seq
    }

    /// Append the next entry of the broker's log to the order. Returns the item that readers get. `last` is the topic of
    /// the last event, and its number; it holds while the hub stays locked.
    fn follow(
        &mut self,
        hub: &Hub,
        id: StreamId,
        delivery: Option<Delivery>,
        at: Duration,
        last: &mut Option<(Topic, TopicId)>,
    ) -> Option<Item> {
        self.seq += 1;
        self.numbering.follow(id);
        Some(match delivery? {
            Delivery::Event(_, To::One(name), frame) => {
                let found = self.named(&name).filter(|id| !self.is_over(&self.subscribers[id]))?;
                Item::Event(Arc::new(Entry::new(None, Target::One(found), at, frame)))
            }
            Delivery::Event(id, to, frame) => {
                let target = match to {
                    To::Topics(topics) => Target::Topics(self.numbers(hub, topics, last)),
                    _ => Target::All,
                };
                let entry = Entry::new(Some(self.seq), target, at, frame).named(Some(id)).published();
                let entry = Arc::new(entry);
                self.history.append(&entry);
                Item::Event(entry)
            }
            Delivery::Life(topic, step) => {
                *last = None;
                Item::Change(Arc::new(self.live(hub, id, &topic, step, at)?))
            }
            Delivery::Kick(whose, reason) => Item::Change(Arc::new(self.kick(&whose, &reason)?)),
        })
    }

    /// The numbers of the topics of an event that the log has.
    fn numbers(&mut self, hub: &Hub, mut topics: Topics, last: &mut Option<(Topic, TopicId)>) -> TopicIds {
        if let (Some((topic, number)), [only]) = (&last, &topics[..])
            && topic == only
        {
            return TopicIds::from_slice(&[*number]);
        }
        for topic in &topics {
            self.reopen(hub, topic);
        }
        let numbers = self.intern(&hub.config, &topics);
        *last = topics.pop().zip(numbers.first().copied()).filter(|_| numbers.len() == 1);
        numbers
    }

    pub(super) fn named(&self, name: &str) -> Option<SubscriberId> {
        SubscriberId::from_public(name).filter(|id| self.subscribers.contains_key(id))
    }

    /// The question for the broker where a client starts, if this process cannot resolve it by itself.
    pub(super) fn question(
        &mut self,
        request: &Request,
        topics: &TopicIds,
        now: Duration,
    ) -> Option<Question> {
        let Numbering::Stream(_) = &self.numbering else { return None };
        let Some(text) = request.given() else {
            return (!self.numbering.has_started()).then_some(Question(None));
        };
        match self.place(text, request, topics) {
            Place::Elsewhere(id) => Some(Question(Some(id))),
            Place::Nowhere(_) => (!self.numbering.has_started()).then_some(Question(None)),
            Place::Here(seq) if seq >= self.head_of(request, topics) => None,
            Place::Here(seq) if self.history.reaches(topics, seq, now) => None,
            Place::Here(_) => Some(Question(StreamId::parse(text))),
        }
    }

    /// Where a client's id lies in the hub's order. An event of a run that is followed is found however many ids came
    /// after it: the run is kept, whatever the broker has trimmed. An id from before the run is that of another run, or
    /// of nothing that its watchers receive.
    pub(super) fn place(&self, text: &str, request: &Request, topics: &[TopicId]) -> Place {
        let place = self.numbering.find(text, self.seq);
        if !request.follows_run {
            return place;
        }
        match place {
            Place::Here(seq) if self.history.has_begun_behind(topics, seq) => {
                Place::Nowhere(ResetReason::Evicted)
            }
            Place::Elsewhere(id) if self.history.has_begun_behind_id(topics, id) => {
                Place::Nowhere(ResetReason::Evicted)
            }
            Place::Elsewhere(id) => self.history.number_in_pinned(topics, id).map_or(place, Place::Here),
            place => place,
        }
    }

    /// Whether a subscriber is in a topic of this name, or was until the name was free, while its gap is fetched.
    fn is_in(&self, registered: &Registered, name: &Topic) -> bool {
        let is_in = |id: TopicId| registered.topics.contains(&id);
        let was_in = |freed: &Freed| freed.0.iter().any(|freed| **freed == *name.as_str());
        self.topics.find(name.as_str()).is_some_and(is_in)
            || registered.fetched.as_deref().is_some_and(was_in)
    }

    /// The stream of a client whose gap the broker fetches, up to the current head; newer events come from history.
    fn plan_fetch(&self, id: StreamId, next: Box<dyn Wake>, request: &Request, topics: &TopicIds) -> Plan {
        let cursor = self.head_of(request, topics);
        Plan {
            cursor,
            id: id.event_id(),
            reset: None,
            replay: Some(self.history.resume(topics, cursor, cursor)),
            fetch: Some(Fetch::new(next)),
            snapshot: None,
            recovered: Some(true),
            complete: true,
        }
    }
}

/// A piece without the values that a newer one of their key and topics replaces in the same piece.
fn without_superseded(piece: Vec<(To, Arc<Entry>)>) -> Vec<Arc<Entry>> {
    let mut newer: HashSet<(To, Key)> = HashSet::new();
    let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(piece.len());
    for (to, entry) in piece.into_iter().rev() {
        if entry.key().is_none_or(|key| newer.insert((to, key.clone()))) {
            entries.push(entry);
        }
    }
    entries.reverse();
    entries
}
