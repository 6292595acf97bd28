//! The hub: topics, subscribers and publishing. It orders everything in one log, keeps what may be replayed,
//! and wakes the readers that deliver, after it has unlocked.
//!
//! # Threads
//! Every method may be called from any thread. Locks are taken in one order, a reader's before the hub's, and
//! nothing is called while one is held but the history.
//!
//! # Lagging and closing
//! See [`crate::log`] for publishers that run ahead, [`crate::queue`] for clients that lag and
//! [`crate::subscriber`] for how streams end. A hub that was closed is not opened again: its owner makes a new
//! one, with a new epoch.

mod moving;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::broker::outcome::Outcome;
use crate::broker::{Broker, PresenceChange};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::ResetReason;
use crate::entry::{Entry, SubscriberId, Target};
use crate::error::{Error, Result};
use crate::event::{Epoch, EventId, MAX_ID_BYTES};
use crate::frame::Draft;
use crate::heartbeat::spread;
use crate::history::{History, Past, Retention};
use crate::log::{CursorKey, Item, Log};
use crate::numbering::{Names, Numbering, Place};
use crate::queue::{Capacity, OverflowPolicy};
use crate::reader::{Effects, Reader, ReaderId};
use crate::stats::{Counters, count};
use crate::subscriber::{Change, CloseReason, Fetch, Identity, Plan, Subscriber, Taken, Terms, Who};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::topic::{Topic, TopicId, TopicIds, TopicPattern, TopicTable};
use crate::waker::Wake;

mod stream;

use stream::Question;
pub use stream::Verdict;

/// A drain takes at most this many items and bytes, then lets the loop's other work run.
const BATCH_ITEMS: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;
/// A piece of a replay.
const PAGE_ENTRIES: usize = 512;
const PAGE_BYTES: usize = 64 << 10;
/// Topics beyond which the table is looked through for idle ones, at first.
const FIRST_SWEEP: usize = 1024;

/// What a subscriber asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its topics; may be empty, `broadcast` and `send` still reach it.
    pub topics: Vec<Topic>,
    /// The id it saw last, as the client gave it.
    pub last_event_id: Option<String>,
    /// How much past a newcomer gets.
    pub past: Option<Past>,
    /// Whether the application will give initial events, unless it resumes completely.
    pub initial: bool,
    /// Whose it is.
    pub user: Option<Arc<str>>,
    /// Instead of the hub's.
    pub overflow: Option<OverflowPolicy>,
    /// Instead of the hub's, in events.
    pub capacity: Option<usize>,
    /// How long the stream may last.
    pub max_age: Option<Duration>,
    /// The server that hands the connection over; 0 for one that streams it itself.
    pub server: u64,
}

impl Request {
    /// The id it came back with, if it did.
    fn given(&self) -> Option<&str> {
        self.last_event_id.as_deref().filter(|id| !id.is_empty())
    }
}

/// What a drain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// More is waiting: drain again after the loop's other work.
    pub more: bool,
    /// When to come again at the latest, on the hub's clock.
    pub next: Option<Duration>,
}

struct ReaderSlot {
    reader: Arc<Reader>,
    cursor: Option<CursorKey>,
    subscribers: usize,
}

struct Registered {
    identity: Arc<Identity>,
    topics: TopicIds,
    /// What it asked for, while the broker finds out where it begins.
    waits: Option<Box<Request>>,
}

struct State {
    seq: u64,
    numbering: Numbering,
    log: Log,
    history: History,
    topics: TopicTable,
    families: Vec<(TopicPattern, Retention)>,
    subscribers: FxHashMap<SubscriberId, Registered>,
    readers: FxHashMap<ReaderId, ReaderSlot>,
    last_reader: u64,
    next_sweep: usize,
    closing: bool,
}

/// A hub, from its start to its close.
pub struct Hub {
    /// The part of its ids that no other hub shares.
    pub epoch: Epoch,
    /// Its options.
    pub config: Config,
    /// What it counts.
    pub counters: Counters,
    /// Its clock.
    pub clock: Clock,
    /// Bytes that wait for the slowest reader, as of the last append or drain.
    waiting: AtomicU64,
    broker: OnceLock<Arc<dyn Broker>>,
    state: Mutex<State>,
}

type Readers = SmallVec<[Arc<Reader>; 4]>;

fn ring(readers: &Readers) {
    for reader in readers {
        reader.bell.ring();
    }
}

/// 64 random bits: for ids nobody should guess, and for spreading.
fn random() -> u64 {
    getrandom::u64().expect("the system gives random numbers")
}

impl Hub {
    /// A new hub of this process.
    #[must_use]
    pub fn new(config: Config, clock: Clock) -> Self {
        let epoch = Epoch::random();
        Self::numbered(config, clock, epoch, Numbering::Own(epoch))
    }

    /// A new hub that a broker's stream feeds.
    #[must_use]
    pub fn of_stream(config: Config, clock: Clock) -> Self {
        Self::numbered(config, clock, Epoch::random(), Numbering::Stream(Names::default()))
    }

    fn numbered(config: Config, clock: Clock, epoch: Epoch, numbering: Numbering) -> Self {
        let mut history = History::new(config.history_total_bytes);
        history.open(TopicId::BROADCAST, config.retention);
        let state = State {
            seq: 0,
            numbering,
            log: Log::default(),
            history,
            topics: TopicTable::default(),
            families: Vec::new(),
            subscribers: FxHashMap::default(),
            readers: FxHashMap::default(),
            last_reader: 0,
            next_sweep: FIRST_SWEEP,
            closing: false,
        };
        Self {
            epoch,
            config,
            counters: Counters::default(),
            clock,
            waiting: AtomicU64::new(0),
            broker: OnceLock::new(),
            state: Mutex::new(state),
        }
    }

    /// What a topic, or a family of topics, keeps. The newest rule that fits wins; a plain name beats any
    /// pattern. What is kept already is brought within the new limits.
    pub fn set_retention(&self, pattern: &TopicPattern, retention: Retention) {
        let mut state = self.state.lock();
        state.families.retain(|(other, _)| other != pattern);
        state.families.push((pattern.clone(), retention));
        let meant = state.topics.iter().filter(|(_, info)| pattern.matches(&info.name));
        let meant: Vec<(TopicId, Arc<str>)> = meant.map(|(id, info)| (id, info.name.clone())).collect();
        for (id, name) in meant {
            let retention = state.retention(&self.config, &name);
            state.history.open(id, retention);
        }
    }

    /// Publish to the subscribers of `topics`: one append, one wake-up per sleeping reader. Never waits.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`] without topics, [`Error::EventTooLarge`], [`Error::HubFull`],
    /// [`Error::HubClosed`]; nothing was published then.
    pub fn publish(&self, topics: &[Topic], draft: Draft) -> Result<EventId> {
        if topics.is_empty() {
            return Err(Error::no_topics());
        }
        self.append(draft, |state, hub| Target::Topics(state.intern(&hub.config, topics)))
    }

    /// Publish to every subscriber; replayed like a topic.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub fn broadcast(&self, draft: Draft) -> Result<EventId> {
        self.append(draft, |_, _| Target::All)
    }

    fn append(&self, draft: Draft, target: impl FnOnce(&mut State, &Self) -> Target) -> Result<EventId> {
        self.check_size(&draft)?;
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.check_open(self, draft.len())?;
        let target = target(&mut state, self);
        state.seq += 1;
        let id = EventId { epoch: self.epoch, seq: state.seq };
        let entry = Arc::new(Entry::new(Some(id.seq), target, now, draft.seal(Some(id))).named(Some(id)));
        state.history.append(&entry);
        state.log.push(Item::Event(entry));
        self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
        let readers = state.listening();
        if state.topics.len() >= state.next_sweep {
            state.sweep(now);
        }
        drop(state);
        count(&self.counters.published, 1);
        ring(&readers);
        Ok(id)
    }

    /// Send to one subscriber: in order with everything else, without an id, not replayed. False when it is
    /// not there (any more).
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub fn send(&self, subscriber: Option<SubscriberId>, draft: Draft) -> Result<bool> {
        self.check_size(&draft)?;
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.check_open(self, draft.len())?;
        let Some(subscriber) = subscriber.filter(|id| state.subscribers.contains_key(id)) else {
            drop(state);
            count(&self.counters.undeliverable, 1);
            return Ok(false);
        };
        let entry = Entry::new(None, Target::One(subscriber), now, draft.seal(None));
        state.log.push(Item::Event(Arc::new(entry)));
        self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
        let readers = state.listening();
        drop(state);
        count(&self.counters.published, 1);
        ring(&readers);
        Ok(true)
    }

    fn check_size(&self, draft: &Draft) -> Result<()> {
        let (size, limit) = (draft.len(), self.config.max_event_bytes);
        if size > limit { Err(Error::EventTooLarge { size, limit }) } else { Ok(()) }
    }

    /// Whether `size` more bytes would be refused, without locking: a hint to look for readers that are dead.
    #[must_use]
    pub fn is_pressed(&self, size: usize) -> bool {
        let waiting = usize::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        waiting > 0 && waiting.saturating_add(size) > self.config.backlog_bytes
    }

    /// A new reader, which is woken through `wake`.
    pub fn add_reader(&self, wake: Box<dyn Wake>) -> Arc<Reader> {
        let mut state = self.state.lock();
        state.last_reader += 1;
        let id = ReaderId(state.last_reader);
        let reader = Arc::new(Reader::new(id, wake));
        state.readers.insert(id, ReaderSlot { reader: reader.clone(), cursor: None, subscribers: 0 });
        reader
    }

    /// Forget a reader whose loop is gone, with its subscribers.
    pub fn remove_reader(&self, reader: &Reader) -> Vec<Arc<Identity>> {
        let mut state = self.state.lock();
        let lost: Vec<_> = state
            .subscribers
            .values()
            .filter(|registered| registered.identity.reader == reader.id)
            .map(|registered| registered.identity.clone())
            .collect();
        for identity in &lost {
            self.unregister(&mut state, identity.id);
        }
        if let Some(cursor) = state.readers.remove(&reader.id).and_then(|slot| slot.cursor) {
            state.log.remove_reader(cursor);
        }
        drop(state);
        count(&self.counters.disconnected, lost.len() as u64);
        lost
    }

    /// Join: from now on everything published to the topics is queued for the subscriber; what it missed is
    /// read from history before that. Gap-free: the place in the log and the cursor are taken under one lock.
    ///
    /// # Errors
    /// [`Error::HubClosed`], [`Error::TooManySubscribers`].
    ///
    /// # Panics
    /// When the system gives no random numbers.
    pub fn subscribe(&self, reader: &Arc<Reader>, request: &Request) -> Result<Arc<Identity>> {
        let now = self.clock.now();
        let random = random();
        let terms = self.terms(request, random, now);
        let id = SubscriberId(random);
        let mut made = None;
        reader.insert(|key, turn| {
            let identity = Arc::new(Identity {
                id,
                name: public_id(random).into(),
                user: request.user.clone(),
                server: request.server,
                reader: reader.id,
                key,
                moved: OnceLock::new(),
                is_moved: false,
                recovered: OnceLock::new(),
                closed: OnceLock::new(),
                last_topics: OnceLock::new(),
                settling: OnceLock::new(),
            });
            made = Some(identity.clone());
            Subscriber::new(identity, terms, now, turn)
        });
        let identity = made.expect("insert makes the subscriber");
        match self.register(&identity, request, now) {
            Ok(Ok(plan)) => self.begin(reader, &identity, plan, now),
            Ok(Err(Question(asked))) => {
                if let Some(broker) = self.broker.get() {
                    broker.settle(id, asked);
                }
            }
            Err(error) => {
                reader.remove(&identity);
                return Err(error);
            }
        }
        count(&self.counters.connected, 1);
        Ok(identity)
    }

    /// It is known where a subscriber begins.
    fn begin(&self, reader: &Arc<Reader>, identity: &Arc<Identity>, plan: Plan, now: Duration) {
        let _ = identity.recovered.set(plan.recovered);
        match plan.recovered {
            Some(true) => count(&self.counters.resumed, 1),
            Some(false) => count(&self.counters.resets, 1),
            None => {}
        }
        let (retry_ms, mut plan) = (self.retry_ms(identity.id), Some(plan));
        self.wherever(reader, identity, |reader, identity| {
            let _ = identity.recovered.set(plan.as_ref().and_then(|plan| plan.recovered));
            reader.begin(identity, &mut plan, retry_ms, now)
        });
    }

    /// Do something to a subscriber that may be moved to another reader meanwhile, and wake the one it is at.
    /// False when it is nowhere any more.
    fn wherever(
        &self,
        reader: &Arc<Reader>,
        identity: &Arc<Identity>,
        mut act: impl FnMut(&Reader, &Arc<Identity>) -> bool,
    ) -> bool {
        let (mut reader, mut identity) = (reader.clone(), identity.clone());
        loop {
            if act(&reader, &identity) {
                reader.bell.ring();
                return true;
            }
            let Some(next) = identity.moved.get().cloned() else { return false };
            match self.state.lock().readers.get(&next.reader) {
                Some(slot) => reader = slot.reader.clone(),
                None => return false,
            }
            identity = next;
        }
    }

    /// A client's own `retry:`, in milliseconds; its number is random.
    fn retry_ms(&self, subscriber: SubscriberId) -> u64 {
        let (least, most) = self.config.reconnect_ms;
        least + (subscriber.0 >> 16) % (most - least + 1)
    }

    fn terms(&self, request: &Request, random: u64, now: Duration) -> Terms {
        let config = &self.config;
        Terms {
            capacity: Capacity {
                events: request.capacity.unwrap_or(config.capacity.events),
                ..config.capacity
            },
            overflow: request.overflow.unwrap_or(config.overflow),
            heartbeat: config.heartbeat.map(|heartbeat| spread(heartbeat, random)),
            stall_timeout: config.stall_timeout,
            expires: request.max_age.map(|age| now + age),
        }
    }

    /// How its stream begins; or, when the broker has to find out, the id it came back with.
    fn register(
        &self,
        identity: &Arc<Identity>,
        request: &Request,
        now: Duration,
    ) -> Result<Result<Plan, Question>> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::HubClosed);
        }
        if let Some(limit) = self.config.max_subscribers.filter(|&limit| state.subscribers.len() >= limit) {
            drop(state);
            count(&self.counters.turned_away, 1);
            return Err(Error::TooManySubscribers { limit });
        }
        let mut topics = state.intern(&self.config, &request.topics);
        for &topic in &topics {
            state.topics.enter(topic);
        }
        topics.push(TopicId::BROADCAST);
        let plan = match state.elsewhere(request, &topics, now) {
            Some(asked) => {
                let _ = identity.settling.set(Arc::default());
                Err(asked)
            }
            None => Ok(state.plan(request, &topics, now)),
        };
        let waits = plan.is_err().then(|| Box::new(request.clone()));
        let registered = Registered { identity: identity.clone(), topics: topics.clone(), waits };
        state.subscribers.insert(identity.id, registered);
        state.came(identity.reader);
        self.tell_presence(&state, identity, &topics, true);
        if plan.is_ok() {
            state.attach(identity, topics);
        }
        if state.topics.len() >= state.next_sweep {
            state.sweep(now);
        }
        Ok(plan)
    }

    /// Add topics to a subscriber, from the next event on. False when it is not there (any more).
    ///
    /// # Errors
    /// [`Error::HubClosed`].
    pub fn join(&self, subscriber: SubscriberId, topics: &[Topic]) -> Result<bool> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(Error::HubClosed);
        }
        let Some(registered) = state.subscribers.get(&subscriber) else { return Ok(false) };
        let has = registered.topics.clone();
        let mut topics = state.intern(&self.config, topics);
        topics.retain(|topic| !has.contains(topic));
        for &topic in &topics {
            state.topics.enter(topic);
        }
        if let Some(registered) = state.subscribers.get_mut(&subscriber) {
            registered.topics.extend_from_slice(&topics);
            let identity = registered.identity.clone();
            self.tell_presence(&state, &identity, &topics, true);
        }
        state.log.push(Item::Change(Arc::new(Change::Join { subscriber, topics })));
        Ok(true)
    }

    /// Take topics from a subscriber, from the next event on. False when it is not there (any more).
    pub fn leave(&self, subscriber: SubscriberId, topics: &[Topic]) -> bool {
        let mut state = self.state.lock();
        let mut topics: TopicIds =
            topics.iter().filter_map(|topic| state.topics.find(topic.as_str())).collect();
        topics.sort_unstable();
        topics.dedup();
        let Some(registered) = state.subscribers.get_mut(&subscriber) else { return false };
        topics.retain(|topic| registered.topics.contains(topic));
        registered.topics.retain(|topic| !topics.contains(topic));
        let identity = registered.identity.clone();
        self.tell_presence(&state, &identity, &topics, false);
        for &topic in &topics {
            state.topics.exit(topic);
        }
        state.log.push(Item::Change(Arc::new(Change::Leave { subscriber, topics })));
        true
    }

    /// End the streams of `who` after what was published so far; how many are meant.
    pub fn disconnect(&self, who: Who, reason: CloseReason) -> usize {
        let mut state = self.state.lock();
        let meant = state.meant(&who);
        if meant > 0 {
            state.log.push(Item::Change(Arc::new(Change::Close { who, reason })));
        }
        let readers = state.listening();
        drop(state);
        ring(&readers);
        meant
    }

    /// How many subscribers are meant.
    #[must_use]
    pub fn meant(&self, who: &Who) -> usize {
        self.state.lock().meant(who)
    }

    /// Begin to close: nothing is published or joined any more, all streams end after what was published.
    pub fn begin_close(&self) {
        self.state.lock().closing = true;
        self.disconnect(Who::All, CloseReason::HubClosed);
    }

    /// Deliver what is new to the reader's subscribers, and do what is due.
    pub fn drain(&self, reader: &Reader, effects: &mut Effects) -> Drained {
        let now = self.clock.now();
        reader.bell.heard();
        let mut items = Vec::new();
        let more = {
            let mut state = self.state.lock();
            let cursor = state.readers.get(&reader.id).and_then(|slot| slot.cursor);
            let more =
                cursor.is_some_and(|cursor| state.log.read(cursor, BATCH_ITEMS, BATCH_BYTES, &mut items));
            self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
            more
        };
        if !items.is_empty() {
            reader.dispatch(&items, now, &self.counters, effects);
        }
        drop(items);
        Drained { more, next: self.tick(reader, effects) }
    }

    /// Do what time has made due at the reader; when to come again. Part of a drain.
    pub fn tick(&self, reader: &Reader, effects: &mut Effects) -> Option<Duration> {
        let next = reader.tick(self.clock.now(), &self.counters, effects);
        self.forget(effects.closed.iter().map(|(identity, _)| identity.id));
        next
    }

    fn forget(&self, subscribers: impl Iterator<Item = SubscriberId>) {
        let mut subscribers = subscribers.peekable();
        if subscribers.peek().is_none() {
            return;
        }
        let mut state = self.state.lock();
        let gone = subscribers.filter(|&subscriber| self.unregister(&mut state, subscriber)).count();
        drop(state);
        count(&self.counters.disconnected, gone as u64);
    }

    fn unregister(&self, state: &mut State, subscriber: SubscriberId) -> bool {
        let Some(registered) = state.unregister(subscriber) else { return false };
        self.tell_presence(state, &registered.identity, &registered.topics, false);
        if let Some(settling) = registered.identity.settling.get() {
            settling.complete(Ok(None));
        }
        true
    }

    /// What is there for a subscriber whose consumer is here.
    pub fn take(&self, reader: &Reader, identity: &Identity, out: &mut Vec<Arc<Entry>>) -> Taken {
        self.take_for(reader, identity, out, false)
    }

    /// The same for a consumer that writes at once, on the reader's own thread: it need not come again to be
    /// parked. One that could not write everything says so ([`Reader::blocked`]) before the reader drains.
    pub fn take_last(&self, reader: &Reader, identity: &Identity, out: &mut Vec<Arc<Entry>>) -> Taken {
        self.take_for(reader, identity, out, true)
    }

    fn take_for(
        &self,
        reader: &Reader,
        identity: &Identity,
        out: &mut Vec<Arc<Entry>>,
        parks: bool,
    ) -> Taken {
        let now = self.clock.now();
        let mut page = |replay: &mut crate::history::Replay| {
            let page = self.state.lock().history.page(replay, PAGE_ENTRIES, PAGE_BYTES, now);
            count(&self.counters.resets, u64::from(page.lost));
            page
        };
        reader.take(identity, now, &self.counters, &mut page, out, parks)
    }

    /// The application's initial events of a subscriber are complete. Its last one carries the cursor's id.
    ///
    /// # Errors
    /// [`Error::EventTooLarge`]; nothing was queued then.
    pub fn initial(&self, reader: &Reader, identity: &Identity, events: Vec<Draft>) -> Result<bool> {
        for event in &events {
            self.check_size(event)?;
        }
        Ok(reader.initial(identity, events, self.clock.now()))
    }

    /// End one stream at once; true when its consumer is to be resumed, none when it was closed before.
    pub fn close(&self, reader: &Reader, identity: &Identity, reason: CloseReason) -> Option<bool> {
        let wake = reader.close(identity, reason, self.clock.now());
        if wake.is_some() {
            self.forget(std::iter::once(identity.id));
        }
        wake
    }

    /// The consumer of a subscriber is gone: nothing of it stays. True when it was not closed before.
    pub fn drop_subscriber(&self, reader: &Reader, identity: &Identity, reason: CloseReason) -> bool {
        let closed = self.close(reader, identity, reason).is_some();
        reader.remove(identity);
        closed
    }

    /// The identity of the subscriber with this public id.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Identity>> {
        let id = number(name)?;
        let state = self.state.lock();
        state.subscribers.get(&id).map(|found| found.identity.clone()).filter(|found| &*found.name == name)
    }

    /// The subscribers of a topic, or all, in no particular order.
    #[must_use]
    pub fn subscribers(&self, topic: Option<&str>) -> Vec<Arc<Identity>> {
        let state = self.state.lock();
        let topic = topic.map(|name| state.topics.find(name));
        let is_in = |found: &&Registered| match topic {
            None => true,
            Some(id) => id.is_some_and(|id| found.topics.contains(&id)),
        };
        state.subscribers.values().filter(is_in).map(|found| found.identity.clone()).collect()
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

    /// The topics of a subscriber, sorted; those it had when it is gone.
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
        let mut state = self.state.lock();
        state.sweep(self.clock.now());
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
        counters.extend(sizes.map(|(name, value)| (name, value as u64)));
        counters
    }

    /// How many consumers have not been told of the end of their stream.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        readers.iter().map(|reader| reader.unfinished()).sum()
    }

    /// How long until a reader has to look at its subscribers again, on the hub's clock.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        let soonest = readers.iter().filter_map(|reader| reader.next_deadline()).min();
        soonest.map(|at| at.saturating_sub(self.clock.now()))
    }

    /// Wake every reader: time was moved by a test, or the hub ends.
    pub fn wake_all(&self) {
        let readers: Readers = self.state.lock().readers.values().map(|slot| slot.reader.clone()).collect();
        ring(&readers);
    }
}

/// A subscriber's public id.
fn public_id(number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::with_capacity(13);
    let mut rest = number;
    while rest > 0 || digits.is_empty() {
        digits.push(DIGITS[usize::try_from(rest % 36).unwrap_or(0)] as char);
        rest /= 36;
    }
    "c-".chars().chain(digits.into_iter().rev()).collect()
}

/// The number behind a public id.
fn number(name: &str) -> Option<SubscriberId> {
    Some(SubscriberId(u64::from_str_radix(name.strip_prefix("c-")?, 36).ok()?))
}

impl State {
    fn check_open(&mut self, hub: &Hub, size: usize) -> Result<()> {
        if self.closing {
            return Err(Error::HubClosed);
        }
        let (waiting, limit) = (self.log.waiting_bytes(), hub.config.backlog_bytes);
        // One event is let in alone, or one larger than the whole backlog could never be published.
        if waiting > 0 && waiting + size > limit {
            count(&hub.counters.refused, 1);
            return Err(Error::HubFull { waiting, limit });
        }
        Ok(())
    }

    fn meant(&self, who: &Who) -> usize {
        match who {
            Who::Id(id) => usize::from(self.subscribers.contains_key(id)),
            Who::All => self.subscribers.len(),
            who => self.subscribers.values().filter(|found| who.means(&found.identity)).count(),
        }
    }

    /// The readers that have subscribers.
    fn listening(&self) -> Readers {
        self.readers.values().filter(|slot| slot.subscribers > 0).map(|slot| slot.reader.clone()).collect()
    }

    fn retention(&self, config: &Config, name: &str) -> Retention {
        let exact = self.families.iter().rfind(|(pattern, _)| pattern.as_str() == name);
        let family = || self.families.iter().rfind(|(pattern, _)| pattern.matches(name));
        exact.or_else(family).map_or(config.retention, |(_, retention)| *retention)
    }

    fn intern(&mut self, config: &Config, topics: &[Topic]) -> TopicIds {
        let mut ids = TopicIds::new();
        for topic in topics {
            let (id, new) = self.topics.intern(topic);
            if new {
                let retention = self.retention(config, topic.as_str());
                self.history.open(id, retention);
            }
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    fn names(&self, topics: &TopicIds) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> =
            topics.iter().filter_map(|&id| Some(self.topics.get(id)?.name.clone())).collect();
        names.sort_unstable();
        names
    }

    /// It gets what is published from here on.
    fn attach(&mut self, identity: &Identity, topics: TopicIds) {
        let (reader, subscriber, key) = (identity.reader, identity.id, identity.key);
        self.log.push(Item::Change(Arc::new(Change::Attach { reader, subscriber, key, topics })));
    }

    /// How a stream begins, by what this process has.
    fn plan(&mut self, request: &Request, topics: &TopicIds, now: Duration) -> Plan {
        let head = self.seq;
        let asked = request.given().map(|text| match self.numbering.find(text, head) {
            Place::Nowhere(reason) => Err((reason, 0)),
            Place::Elsewhere(_) => Err((ResetReason::Evicted, head)),
            Place::Here(seq) if !self.history.reaches(topics, seq, now) => Err((ResetReason::Evicted, seq)),
            Place::Here(seq) => Ok(seq),
        });
        if let Some(Ok(seq)) = asked {
            let replay = (seq < head).then(|| self.history.resume(topics, seq, head));
            let (id, recovered) = (self.numbering.id(seq), Some(true));
            return Plan { cursor: seq, id, reset: None, replay, fetch: None, initial: false, recovered };
        }
        self.plan_without(request, asked.and_then(Result::err), topics, now)
    }

    /// How a newcomer's stream begins, or that of one whose gap cannot be closed: why, and behind what number
    /// what is left of it begins.
    fn plan_without(
        &mut self,
        request: &Request,
        gap: Option<(ResetReason, u64)>,
        topics: &TopicIds,
        now: Duration,
    ) -> Plan {
        let head = self.seq;
        let given = request.given();
        let requested = || given.filter(|id| id.len() <= MAX_ID_BYTES).map(Into::into);
        let reset = gap.map(|(reason, _)| (reason, requested()));
        let replay = match gap {
            // Its gap was announced; what is left of what it missed still comes, unless a snapshot does.
            Some((ResetReason::Evicted, seq)) if !request.initial => {
                Some(self.history.remains(topics, seq, head))
            }
            _ => request.past.map(|past| self.history.past(topics, past, head, now)),
        };
        let cursor = replay.as_ref().map_or(head, |replay| replay.from().min(head));
        let recovered = reset.as_ref().map(|_| false);
        let id = self.numbering.id(cursor);
        Plan { cursor, id, reset, replay, fetch: None, initial: request.initial, recovered }
    }

    fn unregister(&mut self, subscriber: SubscriberId) -> Option<Registered> {
        let registered = self.subscribers.remove(&subscriber)?;
        let _ = registered.identity.last_topics.set(self.names(&registered.topics));
        for &topic in &registered.topics {
            self.topics.exit(topic);
        }
        self.left(registered.identity.reader);
        Some(registered)
    }

    /// A reader has one subscriber more: from here on it reads the log.
    fn came(&mut self, reader: ReaderId) {
        let Self { readers, log, .. } = self;
        if let Some(slot) = readers.get_mut(&reader) {
            slot.subscribers += 1;
            slot.cursor.get_or_insert_with(|| log.add_reader());
        }
    }

    /// A reader has one subscriber less; one without any holds nothing back.
    fn left(&mut self, reader: ReaderId) {
        if let Some(slot) = self.readers.get_mut(&reader) {
            slot.subscribers -= 1;
            if slot.subscribers == 0
                && let Some(cursor) = slot.cursor.take()
            {
                self.log.remove_reader(cursor);
            }
        }
    }

    /// Forget the topics that nobody is in and that keep nothing. Its cost is spread over the topics that
    /// were made since the last time.
    fn sweep(&mut self, now: Duration) {
        let idle: Vec<TopicId> =
            self.topics.iter().filter(|(_, info)| info.subscribers == 0).map(|(id, _)| id).collect();
        for id in idle {
            self.history.expire(id, now);
            if self.history.keeps_nothing(id) {
                self.history.forget(id);
                self.topics.remove(id);
            }
        }
        self.next_sweep = (self.topics.len() * 2).max(FIRST_SWEEP);
    }
}
