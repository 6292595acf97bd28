//! Transferring a subscriber between readers before its stream has begun: a subscription that was made on an event
//! loop goes to a reactor with its socket.
//!
//! A subscriber has exactly one place in the log at any moment, or it would lose events or get them twice. The old
//! reader has delivered to it up to its cursor; the new one goes on from the head. So the transfer itself delivers the
//! items between the two, with both readers and the hub locked: nothing is published, delivered or closed meanwhile.

use std::sync::Arc;

use super::{Hub, State};
use crate::change::{Change, Finished, Who};
use crate::entry::Target;
use crate::identity::{CloseReason, Identity};
use crate::ids::{GroupId, SubscriberId};
use crate::log::Item;
use crate::reader::Reader;
use crate::subscriber::{BrokerWakes, Subscriber};
use crate::topic::{TopicId, TopicIds, sorted};

impl Hub {
    /// Transfer a subscriber from which nothing was taken yet to another reader and to `group`. Returns its new
    /// identity, the successor of the old one. A closed subscriber is transferred with the entries it still has.
    /// `None` when it is not at `from`, or entries were taken.
    pub fn transfer(
        &self,
        from: &Reader,
        to: &Reader,
        identity: &Identity,
        group: GroupId,
    ) -> Option<Arc<Identity>> {
        let transferred =
            from.transfer(to, identity, group, self.clock.now(), |subscriber, topics, wakes| {
                self.state.lock().resolve(self, subscriber, topics, from, wakes);
            });
        to.bell.ring();
        transferred
    }
}

impl State {
    /// Bring a subscriber of `from` to the head of the log, from where its new reader goes on.
    fn resolve(
        &mut self,
        hub: &Hub,
        subscriber: &mut Subscriber,
        topics: Option<TopicIds>,
        from: &Reader,
        wakes: &mut BrokerWakes,
    ) {
        let identity = subscriber.identity.clone();
        // A closed one gets nothing new, and is unregistered, or about to be.
        if identity.closed.get().is_some() {
            return;
        }
        if !self.subscribers.contains_key(&identity.id) {
            return subscriber.close(CloseReason::CLOSED, wakes);
        }
        let cursor = self.readers.get(&from.id).and_then(|slot| slot.cursor);
        let pending = cursor.into_iter().flat_map(|cursor| self.log.ahead_of(cursor));
        let end = deliver_pending(hub, subscriber, topics, pending, wakes);
        self.remove_from_reader(from.id);
        self.add_to_reader(identity.reader);
        let (reader, id, key) = (identity.reader, identity.id, identity.key);
        if let Some(registered) = self.subscribers.get_mut(&id) {
            registered.identity = identity;
            // One that waits for the broker gets them when it is known where it begins.
            let topics =
                if registered.unresolved.is_none() { registered.topics.clone() } else { TopicIds::new() };
            // Its end may have been among what was pending.
            let (topics, _) = self.unfinished(id, topics);
            self.log.push(Item::Change(Arc::new(Change::Attach { reader, subscriber: id, key, topics })));
        }
        // Its close was in the log for the old reader. Nothing behind it was delivered to the subscriber.
        if let Some(reason) = end {
            self.log.push(Item::Change(Arc::new(Change::Close { who: Who::Id(id), reason })));
        }
    }
}

/// Deliver to a subscriber what its reader has not dispatched yet. `topics` are those it is in, `None` before it is
/// attached. Returns the reason of a close that is pending for it.
pub(super) fn deliver_pending<'a>(
    hub: &Hub,
    subscriber: &mut Subscriber,
    topics: Option<TopicIds>,
    pending: impl Iterator<Item = &'a Item>,
    wakes: &mut BrokerWakes,
) -> Option<CloseReason> {
    let identity = subscriber.identity.clone();
    let mut joined = topics.is_some();
    let mut topics = topics.unwrap_or_default();
    for item in pending {
        match item {
            Item::Event(entry) if is_for(&entry.target, identity.id, &topics) => {
                subscriber.deliver_pending(entry, wakes).count(&hub.counters);
            }
            Item::Event(_) => {}
            Item::Change(change) => match &**change {
                Change::Attach { subscriber: id, topics: new, .. }
                | Change::Join { subscriber: id, topics: new } => {
                    if *id == identity.id {
                        joined = true;
                        topics.extend(new.iter().copied());
                    }
                }
                Change::Leave { subscriber: id, topics: old } => {
                    if *id == identity.id {
                        let old = sorted(old);
                        topics.retain(|topic| old.binary_search(topic).is_err());
                        if subscriber.leave_topics(&topics) {
                            topics.clear();
                        }
                    }
                }
                // A close before the subscriber's joining was for others.
                Change::Close { who, reason } if joined && who.matches(&identity) => {
                    return Some(reason.clone());
                }
                Change::Close { .. } => {}
                Change::Finish { what, end } => {
                    let is_for_it = match what {
                        Finished::Topic(topic) => topics.contains(topic),
                        Finished::Subscriber(id) => *id == identity.id,
                    };
                    if is_for_it {
                        topics.retain(|topic| *what != Finished::Topic(*topic));
                        if subscriber.end_topic(end, &topics) {
                            topics.clear();
                        }
                    }
                }
            },
        }
    }
    None
}

/// Whether an event goes to this subscriber. One that gets broadcasts is in their topic from its joining on.
fn is_for(target: &Target, id: SubscriberId, topics: &TopicIds) -> bool {
    match target {
        Target::Topics(wanted) => wanted.iter().any(|topic| topics.contains(topic)),
        Target::All => topics.contains(&TopicId::BROADCAST),
        Target::Everyone => !topics.is_empty(),
        Target::One(one) => *one == id,
    }
}
