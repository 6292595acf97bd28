//! The visits of consumers, which take entries from their subscriber, and their reports.

use std::sync::Arc;
use std::time::Duration;

use super::Reader;
use super::state::State;
use crate::entry::Entry;
use crate::frame::Draft;
use crate::history::{Page, Replay};
use crate::identity::{Identity, Keyed};
use crate::stats::{Counters, count};
use crate::subscriber::{BrokerWakes, Subscriber, Taken, wake_brokers};

impl Reader {
    /// Take entries for a subscriber's consumer. `page` reads history, with this reader locked. With `parks`, a
    /// consumer that writes at once is parked by the same visit ([`Taken::Last`]), and must report a write that is
    /// blocked ([`Self::write_blocked`]).
    pub fn take(
        &self,
        Keyed { key, identity }: Keyed<'_>,
        now: Duration,
        counters: &Counters,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
        parks: bool,
    ) -> Taken {
        let mut wakes = BrokerWakes::new();
        let mut state = self.state.lock();
        let State { subscribers, turn, heartbeats, releases, .. } = &mut *state;
        // It has the place, unless it is gone and another one has it.
        let has_place = |found: &&mut Subscriber| std::ptr::eq(Arc::as_ptr(&found.identity), identity);
        let Some(subscriber) = subscribers.get_mut(key).filter(has_place) else {
            return Taken::End;
        };
        let mut heartbeat = |seen| {
            count(&counters.heartbeats, 1);
            heartbeats.get(seen, now)
        };
        let taken = subscriber.take(now, *turn, &mut heartbeat, page, out, &mut wakes);
        let (mut delivered, mut is_compressed) = (out.len() as u64, false);
        match &subscriber.zip {
            Some(zip) if zip.is_over() => delivered = 0,
            Some(_) => is_compressed = taken == Taken::Some,
            None => {}
        }
        let is_last = parks && taken == Taken::Some && subscriber.park(now);
        let rings = match subscriber.held_until() {
            Some(at) => releases.add(at, identity.id, key),
            None => false,
        };
        if is_compressed {
            state.compress(key, now, counters, out);
        }
        drop(state);
        wake_brokers(wakes);
        if rings {
            // The reader has yet to set its timer for that.
            self.bell.ring();
        }
        count(&counters.delivered, delivered);
        if is_last { Taken::Last } else { taken }
    }

    /// The entries that a consumer took last were not written completely.
    pub fn write_blocked(&self, identity: &Identity, now: Duration) {
        let mut state = self.state.lock();
        let turn = state.turn;
        if let Some(subscriber) = state.subscriber(identity) {
            subscriber.write_blocked(now, turn);
        }
    }

    /// Ask the consumer for the unsent bytes of a long write, instead of closing the stream when a write takes
    /// `stall_timeout`.
    pub fn ask_for_progress(&self, identity: &Identity) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.ask_for_progress();
        }
    }

    /// The reader's driver itself detects a stalled client, and closes the stream. Returns whether events may be dropped
    /// that wait for this subscriber.
    pub fn leave_stalls_to_driver(&self, identity: &Identity) -> bool {
        self.state.lock().subscriber(identity).is_some_and(|found| {
            found.leave_stalls_to_driver();
            found.may_drop()
        })
    }

    /// Whether events may be dropped that wait for this subscriber.
    #[must_use]
    pub fn may_drop(&self, identity: &Identity) -> bool {
        self.state.lock().subscriber(identity).is_some_and(|found| found.may_drop())
    }

    /// Compress a subscriber's body, behind a header that was sent, or that it `owes`. False when entries were taken from
    /// it, or it is not here.
    pub fn compress(&self, identity: &Identity, owes_header: bool) -> bool {
        self.state.lock().subscriber(identity).is_some_and(|found| found.compress(owes_header))
    }

    /// Report how many bytes of the current write have not reached the client, and how many it has acknowledged since
    /// its connection was made, if that is known.
    pub fn report_unsent(
        &self,
        identity: &Identity,
        unsent: usize,
        acknowledged: Option<u64>,
        now: Duration,
    ) {
        if let Some(subscriber) = self.state.lock().subscriber(identity) {
            subscriber.report_unsent(unsent, acknowledged, now);
        }
    }

    /// Whether entries were taken from a subscriber, or it is not here.
    #[must_use]
    pub fn was_taken(&self, identity: &Identity) -> bool {
        self.state.lock().subscriber(identity).is_none_or(|found| found.was_taken())
    }

    /// Deliver a subscriber's initial events; true when its consumer must be resumed.
    pub fn deliver_initial(&self, identity: &Identity, events: Vec<Draft>, now: Duration) -> bool {
        let mut state = self.state.lock();
        let turn = state.turn;
        state.subscriber(identity).is_some_and(|found| found.deliver_initial(events, now, turn))
    }
}
