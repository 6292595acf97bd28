//! A reader of the log: an event loop, or a thread that owns sockets. It holds the subscribers it delivers
//! to, finds them by topic, and knows when each has to be looked at again.
//!
//! Everything here happens under one lock that only the reader's own thread takes while events flow; a
//! subscription from another thread takes it for a moment.

mod consume;
mod drain;
mod effects;
mod heartbeats;
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
use state::State;

/// A reader.
pub struct Reader {
    /// Its number.
    pub id: ReaderId,
    /// How to make it drain.
    pub bell: Bell,
    state: RankedMutex<State>,
}

impl Reader {
    /// A reader without subscribers, woken through `wake`.
    #[must_use]
    pub fn new(id: ReaderId, wake: Box<dyn Wake>) -> Self {
        Self { id, bell: Bell::new(wake), state: RankedMutex::new(Rank::Reader(id), State::default()) }
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
    pub fn open(&self, identity: &Identity, plan: &mut Option<Plan>, retry_ms: u64, now: Duration) -> bool {
        let mut wakes = BrokerWakes::new();
        let open = |found: &mut Subscriber, turn| {
            plan.take().is_some_and(|plan| found.open(plan, retry_ms, now, turn, &mut wakes))
        };
        let found = self.with_subscriber(identity, open);
        wake_brokers(wakes);
        found
    }

    /// Open the stream of a subscriber of which is not known yet where it begins; false when it is not here. The
    /// bell is to be rung after this.
    pub fn open_early(&self, identity: &Identity, retry_ms: u64, now: Duration) -> bool {
        self.with_subscriber(identity, |found, turn| found.open_early(retry_ms, now, turn))
    }

    /// A piece of what a subscriber missed was fetched; false when it is not here. The piece stays when it does
    /// not wait for it. The bell is to be rung after this.
    pub fn deliver_piece(&self, identity: &Identity, piece: &mut Option<Fetched>, now: Duration) -> bool {
        let deliver = |found: &mut Subscriber, turn| {
            found.waits_for_piece() && piece.take().is_some_and(|piece| found.deliver_piece(piece, now, turn))
        };
        self.with_subscriber(identity, deliver)
    }

    /// Do something to a subscriber on another thread than the reader's, which resumes the consumer.
    fn with_subscriber(&self, identity: &Identity, act: impl FnOnce(&mut Subscriber, u64) -> bool) -> bool {
        let mut state = self.state.lock();
        let turn = state.turn;
        let Some(resumes) = state.subscriber(identity).map(|found| act(found, turn)) else { return false };
        if resumes {
            state.resumed.push(identity.key);
        }
        true
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
        catch_up: impl FnOnce(&mut Subscriber, Option<TopicIds>, &mut BrokerWakes) -> Option<CloseReason>,
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
        let reason = catch_up(subscriber, topics, &mut wakes).unwrap_or(reason);
        subscriber.close(reason.clone(), &mut wakes);
        let resumes = subscriber.resume(now, turn);
        state.detach(identity.key);
        drop(state);
        wake_brokers(wakes);
        Some((reason, resumes))
    }

    /// Forget a subscriber whose consumer is gone.
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

    /// Give a subscriber that nothing was taken from to another reader. Both are locked while `arrive` gets the
    /// subscriber, already there under the identity it has from then on. None when it is not here, something
    /// was taken from it, or the other reader is this one.
    pub fn transfer(
        &self,
        to: &Self,
        identity: &Identity,
        group: GroupId,
        now: Duration,
        arrive: impl FnOnce(&mut Subscriber, Option<TopicIds>, &mut BrokerWakes),
    ) -> Option<Arc<Identity>> {
        let mut wakes = BrokerWakes::new();
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
        subscriber.transfer_to(arrived.clone(), now, turn, serial);
        arrive(place.insert(subscriber), topics, &mut wakes);
        let _ = identity.successor.set(arrived.clone());
        drop((own, other));
        wake_brokers(wakes);
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
