//! Presence: which subscribers are in which topics, for the broker that tells the other processes.

use std::sync::Arc;

use super::users::Users;
use super::{Hub, Registered, State, name_in_presence};
use crate::broker::PresenceChange;
use crate::identity::Identity;
use crate::topic::{TopicId, TopicIds};

impl Hub {
    /// Which subscribers are in which topics here, for a broker that writes everything anew.
    #[must_use]
    pub fn presence(&self) -> Vec<PresenceChange> {
        let state = self.state.lock();
        let change = |found: &Registered| state.presence_of_stream(&found.identity, &found.topics, true);
        let claimed = state.users.iter().flat_map(Users::claimed);
        state.subscribers.values().map(|found| change(found)).chain(claimed).collect()
    }

    /// Queue a change of a stream's topics for the broker, with the hub locked. [`Hub::hand_over_presence`] comes after
    /// the unlocking.
    pub(super) fn queue_presence(&self, state: &State, identity: &Identity, topics: &TopicIds, is_in: bool) {
        if self.broker.get().is_some() && !topics.is_empty() {
            self.presence.push(state.presence(identity, topics, is_in));
        }
    }

    /// The same for a stream that begins or ends, in these topics.
    pub(super) fn queue_presence_of_stream(
        &self,
        state: &State,
        identity: &Identity,
        topics: &TopicIds,
        is_in: bool,
    ) {
        if self.broker.get().is_some() {
            self.presence.push(state.presence_of_stream(identity, topics, is_in));
        }
    }

    /// Hand queued changes to the broker. No lock is held.
    pub(super) fn hand_over_presence(&self) {
        if let Some(broker) = self.broker.get() {
            self.presence.hand_over(broker);
        }
    }
}

impl State {
    fn presence(&self, identity: &Identity, topics: &TopicIds, is_in: bool) -> PresenceChange {
        let name = |&id: &TopicId| Some(self.topics.get(id)?.name.clone());
        let topics = topics.iter().filter_map(name).collect();
        PresenceChange { subscriber: (*identity.name()).into(), topics, is_in }
    }

    /// The same with the names under which a stream is in the hub, and is one of its user's.
    fn presence_of_stream(&self, identity: &Identity, topics: &TopicIds, is_in: bool) -> PresenceChange {
        let mut change = self.presence(identity, topics, is_in);
        change.topics.push(Arc::from(""));
        if let (Some(_), Some(user)) = (&self.users, &identity.user) {
            change.topics.push(name_in_presence(user).into());
        }
        change
    }
}
