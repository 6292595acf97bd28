//! The hub: topics, subscribers and publishing. It appends events to one log and to history, and wakes the readers
//! that deliver them once it is unlocked.
//!
//! # Threads
//! Every method may be called from any thread. Locks are taken in one order, a reader's before the hub's
//! ([`crate::sync::Rank`]). No waker, outcome or broker is called while one of them is held.
//!
//! # Lagging and closing
//! See [`crate::log`] for publishers that run ahead, [`crate::queue`] for clients that lag and
//! [`crate::subscriber`] for how streams end. A hub that was closed is not opened again: its owner makes a new
//! one, with a new epoch.

mod brokered;
mod claims;
mod close;
mod deliver;
mod ended;
mod finish;
mod forget;
mod join;
mod presence;
mod presence_queue;
mod query;
mod request;
mod sweep;
mod terms;
mod transfer;
mod users;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::Config;
use crate::entry::{Entry, Target};
use crate::error::{Error, Result};
use crate::frame::Draft;
use crate::history::{History, Retention};
use crate::identity::{CloseReason, Identity};
use crate::ids::{Epoch, EventId, ReaderId, SubscriberId};
use crate::log::{CursorKey, Item, Log};
use crate::numbering::{Names, Numbering};
use crate::reader::Reader;
use crate::stats::{Counters, Measures, count};
use crate::sync::{AtomicU64, Ordering, Rank, RankedMutex};
use crate::topic::{Topic, TopicId, TopicIds, TopicPattern, TopicTable};
use crate::waker::Wake;

pub use brokered::Verdict;
pub use deliver::Drained;
use ended::Ends;
use presence_queue::PresenceQueue;
pub use request::Request;
use sweep::Sweep;
use users::Users;
pub use users::name_in_presence;

struct ReaderSlot {
    reader: Arc<Reader>,
    cursor: Option<CursorKey>,
    subscribers: usize,
}

struct Registered {
    identity: Arc<Identity>,
    topics: TopicIds,
    /// Since when, on the hub's clock.
    since: Duration,
    /// Its request, while the broker resolves where it starts.
    unresolved: Option<Box<Request>>,
    /// Why its stream closes, while the broker delivers the close.
    closing: Option<Box<CloseReason>>,
    /// It was in a topic that has ended, and is no longer: it left, or the name is free.
    was_in_ended: bool,
    /// While its gap is fetched.
    fetched: Option<Box<Freed>>,
}

/// The names of a subscriber's topics that are free since its gap began to be fetched.
#[derive(Default)]
struct Freed(Vec<Arc<str>>);

impl Registered {
    /// Whether it watches a run: all others get broadcasts.
    fn follows_run(&self) -> bool {
        !self.topics.contains(&TopicId::BROADCAST)
    }
}

struct State {
    seq: u64,
    numbering: Numbering,
    log: Log,
    history: History,
    topics: TopicTable,
    ends: Ends,
    families: Vec<(TopicPattern, Retention)>,
    /// Boxed: a table has up to twice as many places as subscribers.
    subscribers: FxHashMap<SubscriberId, Box<Registered>>,
    /// Where `max_per_user` limits their streams.
    users: Option<Users>,
    readers: FxHashMap<ReaderId, ReaderSlot>,
    last_reader: u64,
    sweep: Sweep,
    closing: bool,
}

/// A hub, from its start to its close.
pub struct Hub {
    /// The part of its ids that no other hub shares.
    pub epoch: Epoch,
    pub config: Config,
    pub counters: Counters,
    pub measures: Measures,
    pub clock: Clock,
    /// Bytes that wait for the slowest reader, as of the last append or drain. Relaxed: written with the hub locked,
    /// read as a hint.
    waiting: AtomicU64,
    broker: OnceLock<Arc<dyn Broker>>,
    presence: PresenceQueue,
    state: RankedMutex<State>,
}

type Readers = SmallVec<[Arc<Reader>; 4]>;

fn ring<'a>(readers: impl IntoIterator<Item = &'a Arc<Reader>>) {
    for reader in readers {
        reader.bell.ring();
    }
}

/// The id of an event that was appended, once its readers are woken.
fn announced((id, readers): (EventId, Readers)) -> EventId {
    ring(&readers);
    id
}

impl Hub {
    /// A hub of this process alone.
    #[must_use]
    pub fn new(config: Config, clock: Clock) -> Self {
        let epoch = Epoch::random();
        Self::numbered(config, clock, epoch, Numbering::Own(epoch))
    }

    /// A hub whose order is the log of a broker.
    #[must_use]
    pub fn of_stream(config: Config, clock: Clock) -> Self {
        Self::numbered(config, clock, Epoch::random(), Numbering::Stream(Names::default()))
    }

    fn numbered(config: Config, clock: Clock, epoch: Epoch, numbering: Numbering) -> Self {
        let mut history = History::new(config.history_total_bytes);
        history.open(TopicId::BROADCAST, "", config.retention);
        let state = State {
            seq: 0,
            numbering,
            log: Log::default(),
            history,
            topics: TopicTable::default(),
            ends: Ends::default(),
            families: Vec::new(),
            subscribers: FxHashMap::default(),
            users: config.max_per_user.map(|_| Users::default()),
            readers: FxHashMap::default(),
            last_reader: 0,
            sweep: Sweep::default(),
            closing: false,
        };
        Self {
            epoch,
            config,
            counters: Counters::default(),
            measures: Measures::default(),
            clock,
            waiting: AtomicU64::new(0),
            broker: OnceLock::new(),
            presence: PresenceQueue::default(),
            state: RankedMutex::new(Rank::Hub, state),
        }
    }

    /// Set how much a topic, or a family of topics, keeps. The newest rule that fits wins; a plain name beats any
    /// pattern. Events beyond the new limits are evicted.
    pub fn set_retention(&self, pattern: &TopicPattern, retention: Retention) {
        let mut state = self.state.lock();
        state.families.retain(|(other, _)| other != pattern);
        state.families.push((pattern.clone(), retention));
        let matching = state.topics.iter().filter(|(_, info)| pattern.matches(&info.name));
        let matching: Vec<(TopicId, Arc<str>)> = matching.map(|(id, info)| (id, info.name.clone())).collect();
        for (id, name) in matching {
            let retention = state.retention(&self.config, &name);
            state.history.open(id, &name, retention);
        }
    }

    /// Publish to the subscribers of `topics`: one append, one wake-up per sleeping reader. Never waits.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`] without topics, [`Error::EventTooLarge`], [`Error::HubFull`],
    /// [`Error::HubClosed`], [`Error::TopicEnded`]; nothing was published then.
    pub fn publish(&self, topics: &[Topic], draft: Draft) -> Result<EventId> {
        if topics.is_empty() {
            return Err(Error::no_topics());
        }
        self.append(draft, |state, hub| Ok(Target::Topics(state.intern(&hub.config, topics)))).map(announced)
    }

    /// Publish to the topic of a run, as [`Hub::begin_whole`] has begun it.
    ///
    /// # Errors
    /// As [`Hub::publish`]; [`Error::TopicEnded`] also when the name is free, or that of another run.
    pub fn publish_to_run(&self, topic: &Topic, run: TopicId, draft: Draft) -> Result<EventId> {
        self.append_to_run(topic, run, draft).map(announced)
    }

    /// Publish an event that others follow closely to the topic of a run. `own`, and readers that have promised to drain
    /// soon, are not woken for it. Returns whether there are such readers: the caller then calls [`Hub::ring_waiting`]
    /// soon.
    ///
    /// # Errors
    /// As [`Hub::publish_to_run`].
    pub fn publish_closely(&self, topic: &Topic, run: TopicId, draft: Draft, own: ReaderId) -> Result<bool> {
        let (_, readers) = self.append_to_run(topic, run, draft)?;
        let mut is_left = false;
        for reader in &readers {
            is_left |= reader.id == own || reader.bell.ring_unless_promised();
        }
        Ok(is_left)
    }

    fn append_to_run(&self, topic: &Topic, run: TopicId, draft: Draft) -> Result<(EventId, Readers)> {
        self.append(draft, |state, _| {
            state.check_running(topic, run)?;
            Ok(Target::Topics(TopicIds::from_slice(&[run])))
        })
    }

    /// Wake the readers that have yet to read something.
    pub fn ring_waiting(&self) {
        let state = self.state.lock();
        let is_behind = |slot: &&ReaderSlot| slot.cursor.is_some_and(|cursor| !state.log.is_read(cursor));
        let readers: Readers =
            state.readers.values().filter(is_behind).map(|slot| slot.reader.clone()).collect();
        drop(state);
        ring(&readers);
    }

    /// Publish to every subscriber; replayed like a topic.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub fn broadcast(&self, draft: Draft) -> Result<EventId> {
        self.append(draft, |_, _| Ok(Target::All)).map(announced)
    }

    /// Append an event. Returns the readers that are to be woken for it.
    fn append(
        &self,
        draft: Draft,
        target: impl FnOnce(&mut State, &Self) -> Result<Target>,
    ) -> Result<(EventId, Readers)> {
        self.check_size(&draft)?;
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.check_open(self, draft.len())?;
        state.expire(self, now);
        let target = target(&mut state, self)?;
        state.check_unfinished(target.rings())?;
        state.seq += 1;
        let id = EventId { epoch: self.epoch, seq: state.seq };
        let entry = Entry::new(Some(id.seq), target, now, draft.seal(Some(id))).named(Some(id)).published();
        let entry = Arc::new(entry);
        state.history.append(&entry);
        state.log.push(Item::Event(entry));
        self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
        let readers = state.listening();
        state.sweep(self, now);
        drop(state);
        count(&self.counters.published, 1);
        Ok((id, readers))
    }

    /// Send an event to one subscriber, in order with all others, without an id and not replayed. False when it is not
    /// registered, or all its topics have ended.
    ///
    /// # Errors
    /// As [`Hub::publish`].
    pub fn send(&self, subscriber: Option<SubscriberId>, draft: Draft) -> Result<bool> {
        self.check_size(&draft)?;
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.check_open(self, draft.len())?;
        let gets = |id: &SubscriberId| state.subscribers.get(id).is_some_and(|found| !state.is_over(found));
        let Some(subscriber) = subscriber.filter(gets) else {
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

    /// Whether `size` more bytes would be refused, without locking: a hint to check for dead readers.
    #[must_use]
    pub fn is_pressed(&self, size: usize) -> bool {
        let waiting = usize::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        waiting > 0 && waiting.saturating_add(size) > self.config.backlog_bytes
    }

    /// Add a reader, which is woken through `wake`.
    pub fn add_reader(&self, wake: Box<dyn Wake>) -> Arc<Reader> {
        let mut state = self.state.lock();
        state.last_reader += 1;
        let id = ReaderId(state.last_reader);
        let reader = Arc::new(Reader::new(id, wake));
        state.readers.insert(id, ReaderSlot { reader: reader.clone(), cursor: None, subscribers: 0 });
        reader
    }
}

impl State {
    fn check_open(&mut self, hub: &Hub, size: usize) -> Result<()> {
        if self.closing {
            return Err(Error::HubClosed);
        }
        let (waiting, limit) = (self.log.waiting_bytes(), hub.config.backlog_bytes);
        // An event is always let in alone: one larger than the whole backlog could never be published otherwise.
        if waiting > 0 && waiting + size > limit {
            count(&hub.counters.refused, 1);
            return Err(Error::HubFull { waiting, limit });
        }
        Ok(())
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
                self.history.open(id, topic.as_str(), retention);
            }
            ids.push(id);
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
