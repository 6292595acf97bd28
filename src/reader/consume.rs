//! The visits of consumers, which take what their subscriber has, and what they report.

use std::sync::Arc;
use std::time::Duration;

use super::Reader;
use super::state::{State, find};
use crate::entry::Entry;
use crate::frame::Draft;
use crate::history::{Page, Replay};
use crate::identity::Identity;
use crate::stats::{Counters, count};
use crate::subscriber::{BrokerWakes, Taken, wake_brokers};

impl Reader {
    /// The consumer of a subscriber is here: what is there for it? `page` reads history; it is called with
    /// this reader locked. With `parks`, a consumer that writes at once is parked by the same visit
    /// ([`Taken::Last`]); it must say when its write is [`Self::write_blocked`].
    pub fn take(
        &self,
        identity: &Identity,
        now: Duration,
        counters: &Counters,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
        parks: bool,
    ) -> Taken {
        let mut wakes = BrokerWakes::new();
        let mut state = self.state.lock();
        let State { subscribers, turn, heartbeats, .. } = &mut *state;
        let Some(subscriber) = find(subscribers, identity) else {
            return Taken::End;
        };
        let mut heartbeat = |seen| {
            count(&counters.heartbeats, 1);
            heartbeats.get(seen, now)
        };
        let taken = subscriber.take(now, *turn, &mut heartbeat, page, out, &mut wakes);
        let is_last = parks && taken == Taken::Some && subscriber.park();
        drop(state);
        wake_brokers(wakes);
        count(&counters.delivered, out.len() as u64);
        if is_last { Taken::Last } else { taken }
    }

    /// What a subscriber took last did not go out whole.
    pub fn write_blocked(&self, identity: &Identity, now: Duration) {
        let mut state = self.state.lock();
        let turn = state.turn;
        if let Some(subscriber) = state.subscriber(identity) {
            subscriber.write_blocked(now, turn);
        }
    }

    /// Have the subscriber's consumer asked what its client has not taken yet, rather than end the stream when a
    /// write takes `stall_timeout`.
    pub fn ask_for_progress(&self, identity: &Identity) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.ask_for_progress();
        }
    }

    /// The reader's driver finds out itself whether the subscriber's client has stalled, and closes the stream.
    pub fn leave_stalls_to_driver(&self, identity: &Identity) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.leave_stalls_to_driver();
        }
    }

    /// So many bytes of what a subscriber took have not reached its client yet.
    pub fn report_unsent(&self, identity: &Identity, unsent: usize, now: Duration) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.report_unsent(unsent, now);
        }
    }

    /// Whether something was taken from a subscriber, or it is not here (any more).
    #[must_use]
    pub fn was_taken(&self, identity: &Identity) -> bool {
        self.state.lock().subscriber(identity).is_none_or(|found| found.was_taken())
    }

    /// The initial events of a subscriber are complete; true when its consumer is to be resumed.
    pub fn deliver_initial(&self, identity: &Identity, events: Vec<Draft>, now: Duration) -> bool {
        let mut state = self.state.lock();
        let turn = state.turn;
        state.subscriber(identity).is_some_and(|found| found.deliver_initial(events, now, turn))
    }
}
