//! Closing streams, unregistering subscribers, and closing the hub.

use std::sync::Arc;

use super::transfer::deliver_pending;
use super::{Hub, Registered, State, ring};
use crate::broker::letter::{Letter, Whose};
use crate::change::{Change, Who};
use crate::identity::{CloseReason, Identity};
use crate::ids::{ReaderId, SubscriberId};
use crate::log::Item;
use crate::reader::Reader;
use crate::stats::count;
use crate::sync::Ordering;

impl Hub {
    /// Close the streams of `who` behind everything published so far. Returns their number.
    pub fn disconnect(&self, who: Who, reason: CloseReason) -> usize {
        let mut state = self.state.lock();
        let matching = state.count_matching(&who);
        if matching > 0 {
            state.log.push(Item::Change(Arc::new(Change::Close { who, reason })));
        }
        let readers = state.listening();
        drop(state);
        ring(&readers);
        matching
    }

    /// How many subscribers match.
    #[must_use]
    pub fn count_matching(&self, who: &Who) -> usize {
        self.state.lock().count_matching(who)
    }

    /// Begin to close: refuse publications and subscribers, and close all streams behind everything published so far.
    pub fn begin_close(&self) {
        self.state.lock().closing = true;
        self.disconnect(Who::All, CloseReason::HubClosed);
    }

    pub(super) fn unregister_all(&self, subscribers: impl Iterator<Item = SubscriberId>) {
        let mut subscribers = subscribers.peekable();
        if subscribers.peek().is_none() {
            return;
        }
        let mut unregistered = Vec::new();
        let mut state = self.state.lock();
        for subscriber in subscribers {
            unregistered.extend(self.unregister(&mut state, subscriber));
        }
        drop(state);
        self.announce(&unregistered);
    }

    fn unregister(&self, state: &mut State, subscriber: SubscriberId) -> Option<Arc<Identity>> {
        let registered = state.unregister(subscriber)?;
        self.queue_presence_of_stream(state, &registered.identity, &registered.topics, false);
        self.note_waiting(state);
        let lifetime = self.clock.now().saturating_sub(registered.since);
        self.measures.ended(registered.identity.closed.get(), lifetime);
        Some(registered.identity)
    }

    /// Tell the broker and the waiters of subscribers that were unregistered. No lock is held.
    fn announce(&self, unregistered: &[Arc<Identity>]) {
        count(&self.counters.disconnected, unregistered.len() as u64);
        self.hand_over_presence();
        for resolving in unregistered.iter().filter_map(|identity| identity.resolving.get()) {
            resolving.complete(Ok(None));
        }
    }

    /// Close one stream. Unless the reason drops queued events, everything published so far still goes out. Returns the
    /// reason, which may be that of a close already in the log, and whether the consumer must be resumed; `None` when
    /// the stream was closed before.
    pub fn close(
        &self,
        reader: &Reader,
        identity: &Identity,
        reason: CloseReason,
    ) -> Option<(CloseReason, bool)> {
        let drains = reason.drains();
        let closed = reader.close(identity, reason, self.clock.now(), |subscriber, topics, wakes| {
            if !drains {
                return None;
            }
            let state = self.state.lock();
            let cursor = state.readers.get(&reader.id).and_then(|slot| slot.cursor);
            let pending = cursor.into_iter().flat_map(|cursor| state.log.ahead_of(cursor));
            deliver_pending(self, subscriber, topics, pending, wakes)
        });
        if closed.is_some() {
            self.unregister_all(std::iter::once(identity.id));
        }
        closed
    }

    /// Close a stream through the broker, so that its end comes behind everything published so far. False when the
    /// subscriber is gone, or the broker refuses the letter: then the caller closes the stream.
    pub fn close_by_broker(&self, identity: &Identity, reason: &CloseReason) -> bool {
        let name = identity.name();
        {
            let mut state = self.state.lock();
            let Some(registered) = state.subscribers.get_mut(&identity.id) else { return false };
            registered.closing = Some(Box::new(reason.clone()));
        }
        let letter = Letter::Kick { whose: Whose::Id((*name).into()), reason: reason.as_str().into() };
        self.post(letter).is_ok()
    }

    /// Close the streams of this process that a letter names, after the broker failed to deliver it.
    pub fn kick(&self, whose: &Whose, reason: &Arc<str>) {
        let mut state = self.state.lock();
        let Some(change) = state.kick(whose, reason) else { return };
        state.log.push(Item::Change(Arc::new(change)));
        let readers = state.listening();
        drop(state);
        ring(&readers);
    }

    /// Remove a subscriber whose consumer is gone. True when its stream was not closed before.
    pub fn drop_subscriber(&self, reader: &Reader, identity: &Identity, reason: CloseReason) -> bool {
        let closed = reader.close(identity, reason, self.clock.now(), |_, _, _| None).is_some();
        if closed {
            self.unregister_all(std::iter::once(identity.id));
        }
        reader.remove(identity);
        closed
    }

    /// Remove a reader whose loop is gone, with its subscribers.
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
        self.note_waiting(&state);
        drop(state);
        self.announce(&lost);
        lost
    }

    /// Update the hint of waiting bytes: a removed reader no longer holds publishers back.
    fn note_waiting(&self, state: &State) {
        self.waiting.store(state.log.waiting_bytes() as u64, Ordering::Relaxed);
    }
}

impl State {
    /// The end that a letter asks for. A stream that this process asked the broker to end has its own reason.
    pub(super) fn kick(&mut self, whose: &Whose, reason: &Arc<str>) -> Option<Change> {
        let (who, closing) = match whose {
            Whose::Id(name) => {
                let id = self.named(name)?;
                (Who::Id(id), self.subscribers.get_mut(&id)?.closing.take())
            }
            Whose::User(user) => (Who::User(user.clone()), None),
        };
        let reason = closing.map_or_else(|| CloseReason::Kicked(reason.clone()), |closing| *closing);
        Some(Change::Close { who, reason })
    }

    /// The ends of the streams for whose close this process waits: it may be in a gap of the broker's log.
    pub(super) fn close_all_closing(&mut self) -> Vec<Change> {
        let closing = self.subscribers.values_mut().filter_map(|found| {
            let reason = *found.closing.take()?;
            Some(Change::Close { who: Who::Id(found.identity.id), reason })
        });
        closing.collect()
    }

    pub(super) fn count_matching(&self, who: &Who) -> usize {
        match who {
            Who::Id(id) => usize::from(self.subscribers.contains_key(id)),
            Who::All => self.subscribers.len(),
            who => self.subscribers.values().filter(|found| who.matches(&found.identity)).count(),
        }
    }

    pub(super) fn unregister(&mut self, subscriber: SubscriberId) -> Option<Registered> {
        let registered = self.subscribers.remove(&subscriber)?;
        let _ = registered.identity.last_topics.set(self.names(&registered.topics));
        for &topic in &registered.topics {
            self.topics.exit(topic);
        }
        for topic in self.ends.has_read(subscriber) {
            self.history.drop_topic(topic);
        }
        self.remove_from_reader(registered.identity.reader);
        if let (Some(users), Some(user)) = (&mut self.users, &registered.identity.user) {
            users.exit(user);
        }
        Some(*registered)
    }

    /// Count one subscriber less at a reader. Without any, it has no cursor.
    pub(super) fn remove_from_reader(&mut self, reader: ReaderId) {
        if let Some(slot) = self.readers.get_mut(&reader) {
            slot.subscribers -= 1;
            if slot.subscribers == 0
                && let Some(cursor) = slot.cursor.take()
            {
                self.log.remove_reader(cursor);
            }
        }
    }
}
