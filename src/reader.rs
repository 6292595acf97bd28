//! A reader of the log: an event loop, or a thread that owns sockets. It holds the subscribers it delivers
//! to, finds them by topic, and knows when each has to be looked at again.
//!
//! Everything here happens under one lock that only the reader's own thread takes while events flow; a
//! subscription from another thread takes it for a moment.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use slab::Slab;
use smallvec::SmallVec;

use crate::change::{Change, Who};
use crate::control;
use crate::entry::{Cursor, Entry, Target};
use crate::frame::Draft;
use crate::heartbeat::Deadlines;
use crate::history::{Page, Replay};
use crate::identity::{CloseReason, Identity};
use crate::ids::{EventId, GroupId, ReaderId, SubscriberId};
use crate::log::Item;
use crate::queue::Pushed;
use crate::stats::{Counters, count};
use crate::subscriber::{Asks, Due, Fetched, Membership, Plan, Subscriber, Taken};
use crate::sync::Mutex;
use crate::topic::{TopicId, TopicIds};
use crate::waker::{Bell, Wake};

/// What a drain leaves to do after the locks are released.
#[derive(Default)]
pub struct Effects {
    /// Consumers to resume, by key.
    pub wake: Vec<usize>,
    /// Subscribers whose stream was ended, and why.
    pub closed: Vec<(Arc<Identity>, CloseReason)>,
    /// Subscribers whose consumer is to say what its client has not taken yet ([`Reader::took`]).
    pub ask: Vec<Arc<Identity>>,
}

/// A reader.
pub struct Reader {
    /// Its number.
    pub id: ReaderId,
    /// How to make it drain.
    pub bell: Bell,
    state: Mutex<State>,
}

struct State {
    subscribers: Slab<Subscriber>,
    keys: FxHashMap<SubscriberId, usize>,
    by_topic: FxHashMap<TopicId, Vec<usize>>,
    /// Consumers that another thread has something for.
    resumed: Vec<usize>,
    deadlines: Deadlines,
    /// How often it drained: the measure of "has not come back".
    turn: u64,
    /// How many events it dispatched.
    serial: u64,
    beats: Beats,
}

/// Heartbeats, made once and shared.
struct Beats {
    /// The newest number that was dispatched, and its id.
    cursor: u64,
    id: Option<EventId>,
    comment: Option<Arc<Entry>>,
    moved: Option<Arc<Entry>>,
}

impl Beats {
    /// The heartbeat for a client that has seen everything up to `seen`.
    fn get(&mut self, seen: u64, now: Duration) -> Arc<Entry> {
        let Some(id) = self.id.filter(|_| self.cursor > seen) else {
            return self.comment.get_or_insert_with(|| control::heartbeat(now)).clone();
        };
        let seq = self.cursor;
        match &self.moved {
            Some(entry) if entry.seq == Some(seq) => entry.clone(),
            _ => {
                let entry = control::cursor(Cursor { seq, id }, now);
                self.moved.insert(entry).clone()
            }
        }
    }
}

impl Reader {
    /// A reader without subscribers, woken through `wake`.
    #[must_use]
    pub fn new(id: ReaderId, wake: Box<dyn Wake>) -> Self {
        let beats = Beats { cursor: 0, id: None, comment: None, moved: None };
        let state = State {
            subscribers: Slab::new(),
            keys: FxHashMap::default(),
            by_topic: FxHashMap::default(),
            resumed: Vec::new(),
            deadlines: Deadlines::default(),
            turn: 0,
            serial: 0,
            beats,
        };
        Self { id, bell: Bell::new(wake), state: Mutex::new(state) }
    }

    /// Make room for a subscriber; `make` gets its key, the turn, and gives the subscriber.
    pub fn insert(&self, make: impl FnOnce(usize, u64) -> Subscriber) -> usize {
        let mut state = self.state.lock();
        let turn = state.turn;
        let slot = state.subscribers.vacant_entry();
        let key = slot.key();
        slot.insert(make(key, turn));
        key
    }

    /// The hub let it join: begin as it decided. False, and the plan stays, when it is not here. The bell is
    /// to be rung after this.
    pub fn begin(&self, identity: &Identity, plan: &mut Option<Plan>, retry_ms: u64, now: Duration) -> bool {
        let mut asks = Asks::new();
        let begin = |found: &mut Subscriber, turn| {
            plan.take().is_some_and(|plan| found.begin(plan, retry_ms, now, turn, &mut asks))
        };
        let found = self.act_on(identity, begin);
        ask(asks);
        found
    }

    /// Open the stream of a subscriber of which is not known yet where it begins; false when it is not here. The
    /// bell is to be rung after this.
    pub fn open_early(&self, identity: &Identity, retry_ms: u64, now: Duration) -> bool {
        self.act_on(identity, |found, turn| found.open_early(retry_ms, now, turn))
    }

    /// A piece of what a subscriber missed was fetched; false when it is not here. The piece stays when it does
    /// not wait for it. The bell is to be rung after this.
    pub fn fetched(&self, identity: &Identity, piece: &mut Option<Fetched>, now: Duration) -> bool {
        let give = |found: &mut Subscriber, turn| {
            found.waits_for_piece() && piece.take().is_some_and(|piece| found.fetched(piece, now, turn))
        };
        self.act_on(identity, give)
    }

    /// Do something to a subscriber on another thread than the reader's, which resumes the consumer.
    fn act_on(&self, identity: &Identity, act: impl FnOnce(&mut Subscriber, u64) -> bool) -> bool {
        let mut state = self.state.lock();
        let turn = state.turn;
        let Some(wakes) = state.subscriber(identity).map(|found| act(found, turn)) else { return false };
        if wakes {
            state.resumed.push(identity.key);
        }
        true
    }

    /// The initial events of a subscriber are complete; true when its consumer is to be resumed.
    pub fn initial(&self, identity: &Identity, events: Vec<Draft>, now: Duration) -> bool {
        let mut state = self.state.lock();
        let turn = state.turn;
        state.subscriber(identity).is_some_and(|found| found.initial_done(events, now, turn))
    }

    /// Deliver a batch of the log to the subscribers' queues. `read` moves the reader's cursor over the batch; it
    /// is called with this reader locked, so that what it read is dispatched before anybody else sees the cursor:
    /// a subscriber that leaves between the two would lose the batch. Returns what `read` does.
    pub fn dispatch(
        &self,
        read: impl FnOnce(&mut Vec<Item>) -> bool,
        now: Duration,
        counters: &Counters,
        effects: &mut Effects,
    ) -> bool {
        let (mut items, mut asks) = (Vec::new(), Asks::new());
        let mut state = self.state.lock();
        let more = read(&mut items);
        state.turn += u64::from(!items.is_empty());
        for item in &items {
            match item {
                Item::Event(entry) => state.deliver(entry, now, counters, effects, &mut asks),
                Item::Change(change) => state.change(self.id, change, now, effects, &mut asks),
            }
        }
        // The last reference to an event may be among them: its memory is freed without the lock.
        drop(state);
        drop(items);
        ask(asks);
        more
    }

    /// Do what time has made due; when to come again.
    pub fn tick(&self, now: Duration, counters: &Counters, effects: &mut Effects) -> Option<Duration> {
        let mut asks = Asks::new();
        let mut state = self.state.lock();
        effects.wake.append(&mut state.resumed);
        while let Some((id, key)) = state.deadlines.pop_due(now) {
            state.look_at(id, key, now, counters, effects, &mut asks);
        }
        let next = state.deadlines.next();
        drop(state);
        ask(asks);
        next
    }

    /// The consumer of a subscriber is here: what is there for it? `page` reads history; it is called with
    /// this reader locked. With `parks`, a consumer that writes at once is parked by the same visit
    /// ([`Taken::Last`]); it must say when its write is [`Self::blocked`].
    pub fn take(
        &self,
        identity: &Identity,
        now: Duration,
        counters: &Counters,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
        parks: bool,
    ) -> Taken {
        let mut asks = Asks::new();
        let mut state = self.state.lock();
        let State { subscribers, turn, beats, .. } = &mut *state;
        let Some(subscriber) = find(subscribers, identity) else {
            return Taken::End;
        };
        let mut heartbeat = |seen| {
            count(&counters.heartbeats, 1);
            beats.get(seen, now)
        };
        let taken = subscriber.take(now, *turn, &mut heartbeat, page, out, &mut asks);
        let is_last = parks && taken == Taken::Some && subscriber.park();
        drop(state);
        ask(asks);
        count(&counters.delivered, out.len() as u64);
        if is_last { Taken::Last } else { taken }
    }

    /// What a subscriber took last did not go out whole.
    pub fn blocked(&self, identity: &Identity, now: Duration) {
        let mut state = self.state.lock();
        let turn = state.turn;
        if let Some(subscriber) = state.subscriber(identity) {
            subscriber.blocked(now, turn);
        }
    }

    /// Have the subscriber's consumer asked what its client has not taken yet, rather than end the stream when a
    /// write takes `stall_timeout`.
    pub fn ask_consumer(&self, identity: &Identity) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.ask_consumer();
        }
    }

    /// The reader's driver finds out itself whether the subscriber's client has stalled, and closes the stream.
    pub fn leave_stalls_to_driver(&self, identity: &Identity) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.leave_stalls_to_driver();
        }
    }

    /// So many bytes of what a subscriber took have not reached its client yet.
    pub fn took(&self, identity: &Identity, unsent: usize, now: Duration) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.took(unsent, now);
        }
    }

    /// End one subscriber's stream. `catch_up` is called with this reader locked: it queues what was published
    /// and not dispatched yet to the subscriber in these topics (`None` before it is in any), and returns the
    /// reason of an end that stands there. Returns why the stream ended and whether its consumer is to be resumed;
    /// `None` when it was closed before.
    pub fn close(
        &self,
        identity: &Identity,
        reason: CloseReason,
        now: Duration,
        catch_up: impl FnOnce(&mut Subscriber, Option<TopicIds>, &mut Asks) -> Option<CloseReason>,
    ) -> Option<(CloseReason, bool)> {
        let mut asks = Asks::new();
        let mut state = self.state.lock();
        let turn = state.turn;
        let is_in = state.keys.contains_key(&identity.id);
        let subscriber = state.subscriber(identity)?;
        if subscriber.identity.closed.get().is_some() {
            return None;
        }
        let topics = is_in.then(|| subscriber.topic_ids());
        let reason = catch_up(subscriber, topics, &mut asks).unwrap_or(reason);
        subscriber.close(reason.clone(), &mut asks);
        let wake = subscriber.wake(now, turn);
        state.detach(identity.key);
        drop(state);
        ask(asks);
        Some((reason, wake))
    }

    /// Forget a subscriber whose consumer is gone.
    pub fn remove(&self, identity: &Identity) {
        let mut state = self.state.lock();
        let removed = state.remove(identity);
        drop(state);
        let mut asks = Asks::new();
        if let Some(removed) = removed {
            removed.abandon(&mut asks);
        }
        ask(asks);
    }

    /// Whether something was taken from a subscriber, or it is not here (any more).
    #[must_use]
    pub fn was_taken(&self, identity: &Identity) -> bool {
        self.state.lock().subscriber(identity).is_none_or(|found| found.was_taken())
    }

    /// Give a subscriber that nothing was taken from to another reader. Both are locked while `settle` gets the
    /// subscriber, already there under the identity it has from then on. None when it is not here, something
    /// was taken from it, or the other reader is this one.
    pub fn hand_to(
        &self,
        to: &Self,
        identity: &Identity,
        group: GroupId,
        now: Duration,
        settle: impl FnOnce(&mut Subscriber, Option<TopicIds>, &mut Asks),
    ) -> Option<Arc<Identity>> {
        let mut asks = Asks::new();
        // In the order of their numbers, or two that give to each other would wait for ever.
        let (mut own, mut other) = match self.id.0.cmp(&to.id.0) {
            std::cmp::Ordering::Less => {
                let own = self.state.lock();
                (own, to.state.lock())
            }
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => {
                let other = to.state.lock();
                (self.state.lock(), other)
            }
        };
        let found = own.subscriber(identity).filter(|found| !found.was_taken())?;
        let topics = found.topic_ids();
        let topics = own.keys.contains_key(&identity.id).then_some(topics);
        let mut subscriber = own.remove(identity)?;
        let (turn, serial) = (other.turn, other.serial);
        let place = other.subscribers.vacant_entry();
        let arrived = Arc::new(subscriber.identity.at(to.id, place.key(), group));
        subscriber.arrive(arrived.clone(), now, turn, serial);
        settle(place.insert(subscriber), topics, &mut asks);
        let _ = identity.moved.set(arrived.clone());
        drop((own, other));
        ask(asks);
        Some(arrived)
    }

    /// How many consumers have not been told of the end of their stream.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.state.lock().subscribers.iter().filter(|(_, subscriber)| !subscriber.has_ended()).count()
    }

    /// How many subscribers wait for the application's snapshot, and how many bytes wait behind these.
    #[must_use]
    pub fn waiting_for_initial(&self) -> (usize, usize) {
        let state = self.state.lock();
        let waiting = state.subscribers.iter().filter_map(|(_, found)| found.waits_for_initial());
        waiting.fold((0, 0), |(count, bytes), more| (count + 1, bytes + more))
    }

    /// When to tick next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.state.lock().deadlines.next()
    }
}

/// Wake the brokers that the readers' subscribers ask for something. No lock is held.
fn ask(asks: Asks) {
    for broker in asks {
        broker.wake();
    }
}

/// The subscriber in its place, unless it is gone and the place was given away.
fn find<'a>(subscribers: &'a mut Slab<Subscriber>, identity: &Identity) -> Option<&'a mut Subscriber> {
    subscribers.get_mut(identity.key).filter(|found| found.identity.id == identity.id)
}

impl State {
    fn subscriber(&mut self, identity: &Identity) -> Option<&mut Subscriber> {
        find(&mut self.subscribers, identity)
    }

    fn deliver(
        &mut self,
        entry: &Arc<Entry>,
        now: Duration,
        counters: &Counters,
        effects: &mut Effects,
        asks: &mut Asks,
    ) {
        self.serial += 1;
        if let Some(seq) = entry.seq {
            self.beats.cursor = seq;
            self.beats.id = entry.id;
        }
        let mut overflowed = Vec::new();
        let State { subscribers, by_topic, serial, turn, keys, .. } = self;
        let mut push = |key: usize| {
            let Some(subscriber) = subscribers.get_mut(key) else { return };
            if std::mem::replace(&mut subscriber.serial, *serial) == *serial {
                return;
            }
            match subscriber.push(entry, now, *turn, asks) {
                Pushed::Queued if subscriber.wake(now, *turn) => effects.wake.push(key),
                Pushed::Queued => {}
                Pushed::Dropped(n) => count(&counters.dropped, n),
                Pushed::Overflow => overflowed.push(key),
            }
        };
        match &entry.target {
            Target::Topics(topics) => {
                topics.iter().filter_map(|topic| by_topic.get(topic)).flatten().for_each(|&key| push(key));
            }
            Target::All => by_topic.get(&TopicId::BROADCAST).into_iter().flatten().for_each(|&key| push(key)),
            Target::One(id) => keys.get(id).into_iter().for_each(|&key| push(key)),
        }
        for key in overflowed {
            count(&counters.overflowed, 1);
            self.end(key, CloseReason::Overflow, now, effects, asks);
        }
    }

    fn change(
        &mut self,
        reader: ReaderId,
        change: &Change,
        now: Duration,
        effects: &mut Effects,
        asks: &mut Asks,
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
                }
            }
            Change::Close { who, reason } => {
                let is_meant =
                    |key: &usize| self.subscribers.get(*key).is_some_and(|found| who.means(&found.identity));
                let meant: Vec<usize> = match who {
                    Who::Id(id) => self.keys.get(id).copied().into_iter().collect(),
                    _ => self.keys.values().copied().filter(is_meant).collect(),
                };
                for key in meant {
                    self.end(key, reason.clone(), now, effects, asks);
                }
            }
        }
    }

    fn attach(&mut self, id: SubscriberId, key: usize, topics: &TopicIds, now: Duration) {
        let Some(subscriber) = self.subscribers.get(key) else { return };
        // Gone, or closed, between the joining and now.
        if subscriber.identity.id != id || subscriber.identity.closed.get().is_some() {
            return;
        }
        let at = subscriber.deadline(now);
        self.deadlines.add(at, id, key);
        self.keys.insert(id, key);
        self.join(key, topics);
    }

    fn join(&mut self, key: usize, topics: &TopicIds) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        for &topic in topics {
            if subscriber.topics.iter().all(|found| found.topic != topic) {
                let keys = self.by_topic.entry(topic).or_default();
                subscriber.topics.push(Membership { topic, place: keys.len() });
                keys.push(key);
            }
        }
    }

    fn leave(&mut self, key: usize, topics: &TopicIds) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let is_left = |found: &Membership| topics.contains(&found.topic);
        let (left, stays) = std::mem::take(&mut subscriber.topics).into_iter().partition(is_left);
        subscriber.topics = stays;
        self.unindex(left);
    }

    /// Take a subscriber that is not in these topics any more out of their lists. Whoever was last in one has its
    /// place from then on: nothing is searched, or thousands that end at once would hold up everybody.
    fn unindex(&mut self, left: SmallVec<[Membership; 2]>) {
        for Membership { topic, place } in left {
            let Some(keys) = self.by_topic.get_mut(&topic) else { continue };
            keys.swap_remove(place);
            if keys.is_empty() {
                self.by_topic.remove(&topic);
            } else if let Some(moved) = keys.get(place).and_then(|&key| self.subscribers.get_mut(key)) {
                let mut found = moved.topics.iter_mut().filter(|found| found.topic == topic);
                found.by_ref().for_each(|found| found.place = place);
            }
        }
    }

    /// Take a subscriber out; its place is free.
    fn remove(&mut self, identity: &Identity) -> Option<Subscriber> {
        self.subscriber(identity)?;
        self.detach(identity.key);
        let removed = self.subscribers.remove(identity.key);
        if self.deadlines.len() > 64 && self.deadlines.len() > 4 * self.subscribers.len() {
            let Self { deadlines, subscribers, .. } = self;
            deadlines.retain(|id, key| subscribers.get(key).is_some_and(|found| found.identity.id == id));
        }
        Some(removed)
    }

    /// Take a subscriber out of dispatch; it keeps what is queued.
    fn detach(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        self.keys.remove(&subscriber.identity.id);
        let left = std::mem::take(&mut subscriber.topics);
        self.unindex(left);
    }

    fn end(
        &mut self,
        key: usize,
        reason: CloseReason,
        now: Duration,
        effects: &mut Effects,
        asks: &mut Asks,
    ) {
        let turn = self.turn;
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if subscriber.identity.closed.get().is_some() {
            return;
        }
        subscriber.close(reason.clone(), asks);
        if subscriber.wake(now, turn) {
            effects.wake.push(key);
        }
        effects.closed.push((subscriber.identity.clone(), reason));
        self.detach(key);
    }

    fn look_at(
        &mut self,
        id: SubscriberId,
        key: usize,
        now: Duration,
        counters: &Counters,
        effects: &mut Effects,
        asks: &mut Asks,
    ) {
        let turn = self.turn;
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if subscriber.identity.id != id || subscriber.identity.closed.get().is_some() {
            return;
        }
        match subscriber.due(now) {
            Due::Nothing => {}
            Due::Ask => effects.ask.push(subscriber.identity.clone()),
            Due::Heartbeat => {
                count(&counters.heartbeats, 1);
                subscriber.beat(self.beats.get(subscriber.heartbeat_from(), now), now);
                if subscriber.wake(now, turn) {
                    effects.wake.push(key);
                }
            }
            Due::Close(reason) => {
                if reason == CloseReason::Stalled {
                    count(&counters.stalled, 1);
                }
                return self.end(key, reason, now, effects, asks);
            }
        }
        // One whose consumer is away may be due sooner than it looks: never in the past.
        let at = subscriber.deadline(now).max(now + Duration::from_millis(10));
        self.deadlines.add(at, id, key);
    }
}
