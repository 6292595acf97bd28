//! A reader of the log: an event loop, or a thread that owns sockets. It holds the subscribers to which it delivers,
//! an index of them by topic, and their deadlines.
//!
//! One lock protects all of it. While events flow, only the reader's own thread takes the lock; a subscription from
//! another thread takes it for a moment.

mod compress;
mod consume;
mod drain;
mod effects;
mod heartbeats;
mod next;
mod state;

use std::sync::Arc;
use std::time::Duration;

use crate::identity::{CloseReason, Identity};
use crate::ids::{GroupId, ReaderId};
use crate::subscriber::{BrokerWakes, Fetched, Plan, Subscriber, wake_brokers};
use crate::sync::{Rank, RankedMutex};
use crate::topic::TopicIds;
use crate::waker::{Bell, Wake};

pub use effects::Effects;
pub use next::Next;
use state::State;

/// A reader.
pub struct Reader {
    pub id: ReaderId,
    /// Makes it drain.
    pub bell: Bell,
    state: RankedMutex<State>,
}

impl Reader {
    /// A reader without subscribers, woken through `wake`.
    #[must_use]
    pub fn new(id: ReaderId, wake: Box<dyn Wake>) -> Self {
        Self { id, bell: Bell::new(wake), state: RankedMutex::new(Rank::Reader(id), State::default()) }
    }

    /// Insert the subscriber that `make` returns for its key and the current turn.
    pub fn insert(&self, make: impl FnOnce(usize, u64) -> Subscriber) -> usize {
        let mut state = self.state.lock();
        let State { subscribers, latest_terms, turn, .. } = &mut *state;
        let slot = subscribers.vacant_entry();
        let key = slot.key();
        slot.insert(make(key, *turn)).share_terms(latest_terms);
        key
    }

    /// Open a subscriber's stream. False when the subscriber is not here; the plan then stays. The caller rings the
    /// bell afterwards.
    pub fn open(&self, identity: &Identity, plan: &mut Option<Plan>, retry_ms: u64, now: Duration) -> bool {
        let mut wakes = BrokerWakes::new();
        let open = |found: &mut Subscriber, turn| {
            plan.take().is_some_and(|plan| found.open(plan, retry_ms, now, turn, &mut wakes))
        };
        let found = self.with_subscriber(identity, open);
        wake_brokers(wakes);
        found
    }

    /// Open a subscriber's stream before its start is resolved; false when the subscriber is not here. The caller rings
    /// the bell afterwards.
    pub fn open_early(&self, identity: &Identity, retry_ms: u64, now: Duration) -> bool {
        self.with_subscriber(identity, |found, turn| found.open_early(retry_ms, now, turn))
    }

    /// Deliver a piece of a subscriber's gap; false when the subscriber is not here. The piece stays when it does not
    /// wait for one. The caller rings the bell afterwards.
    pub fn deliver_piece(&self, identity: &Identity, piece: &mut Option<Fetched>, now: Duration) -> bool {
        let deliver = |found: &mut Subscriber, turn| {
            found.waits_for_piece() && piece.take().is_some_and(|piece| found.deliver_piece(piece, now, turn))
        };
        self.with_subscriber(identity, deliver)
    }

    /// Act on a subscriber from another thread. The reader's thread resumes the consumer where `act` returns true.
    fn with_subscriber(&self, identity: &Identity, act: impl FnOnce(&mut Subscriber, u64) -> bool) -> bool {
        let mut state = self.state.lock();
        let turn = state.turn;
        let Some(resumes) = state.subscriber(identity).map(|found| act(found, turn)) else { return false };
        if resumes {
            state.resumed.push(identity.key);
        }
        true
    }

    /// Close one stream. `deliver_pending`, called with this reader locked, queues the events that were published but not yet
    /// delivered to the subscriber in these topics (`None` before it is attached), and returns the reason of a close
    /// that it finds among them. Returns the reason, and whether the consumer must be resumed; `None` when the stream
    /// was closed before.
    pub fn close(
        &self,
        identity: &Identity,
        reason: CloseReason,
        now: Duration,
        deliver_pending: impl FnOnce(&mut Subscriber, Option<TopicIds>, &mut BrokerWakes) -> Option<CloseReason>,
    ) -> Option<(CloseReason, bool)> {
        let mut wakes = BrokerWakes::new();
        let mut state = self.state.lock();
        let turn = state.turn;
        let is_in = state.keys.contains_key(&identity.id);
        let subscriber = state.subscriber(identity)?;
        if subscriber.identity.closed.get().is_some() {
            return None;
        }
        let topics = is_in.then(|| subscriber.topic_ids());
        let reason = deliver_pending(subscriber, topics, &mut wakes).unwrap_or(reason);
        subscriber.close(reason.clone(), &mut wakes);
        let resumes = subscriber.resume(now, turn);
        state.detach(identity.key);
        drop(state);
        wake_brokers(wakes);
        Some((reason, resumes))
    }

    /// Remove a subscriber whose consumer is gone.
    pub fn remove(&self, identity: &Identity) {
        let mut state = self.state.lock();
        let removed = state.remove(identity);
        drop(state);
        let mut wakes = BrokerWakes::new();
        if let Some(removed) = removed {
            removed.abandon(&mut wakes);
        }
        wake_brokers(wakes);
    }

    /// Transfer a subscriber from which nothing was taken to another reader. Both are locked while `arrive` gets the
    /// subscriber, already at the new reader under its new identity. `None` when it is not here, entries were taken
    /// from it, or both readers are the same.
    pub fn transfer(
        &self,
        to: &Self,
        identity: &Identity,
        group: GroupId,
        now: Duration,
        arrive: impl FnOnce(&mut Subscriber, Option<TopicIds>, &mut BrokerWakes),
    ) -> Option<Arc<Identity>> {
        let mut wakes = BrokerWakes::new();
        // In the order of their numbers, or two transfers in opposite directions would wait for ever.
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
        subscriber.transfer_to(arrived.clone(), now, turn, serial);
        arrive(place.insert(subscriber), topics, &mut wakes);
        let _ = identity.successor.set(arrived.clone());
        drop((own, other));
        wake_brokers(wakes);
        Some(arrived)
    }

    /// When the reader has to do something for a subscriber without an event; `None` when it is not here.
    #[must_use]
    pub fn deadline(&self, identity: &Identity, now: Duration) -> Option<Duration> {
        self.state.lock().subscriber(identity).map(|found| found.deadline(now))
    }

    /// How many consumers have not seen the end of their stream.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.state.lock().subscribers.iter().filter(|(_, subscriber)| !subscriber.has_ended()).count()
    }

    /// How many subscribers wait for the application's snapshot, and how many bytes wait behind these.
    #[must_use]
    pub fn waiting_for_initial(&self) -> (usize, usize) {
        let state = self.state.lock();
        let waiting = state.subscribers.iter().filter_map(|(_, found)| found.bytes_behind_initial());
        waiting.fold((0, 0), |(count, bytes), more| (count + 1, bytes + more))
    }

    /// How many events, and bytes, wait in the queues of its subscribers.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        let state = self.state.lock();
        let queued = state.subscribers.iter().map(|(_, found)| found.queued());
        queued.fold((0, 0), |(events, bytes), more| (events + more.0, bytes + more.1))
    }

    /// When to tick next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.state.lock().next().soonest()
    }
}
