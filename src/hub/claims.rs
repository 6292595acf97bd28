//! Places that newcomers claim among their users' streams, where the hub limits these and has a broker.
//!
//! A newcomer claims its place before it is registered. The store counts the user's streams in all processes and adds
//! the newcomer in one step, so claims that several processes make at once never exceed the limit:
//!
//! ```text
//! begin_claim --broker: grant_claim--> granted --register--> a subscriber
//!      '--------drop_claim---------------'--drop_claim--> removed from presence
//! ```

use std::sync::Arc;

use super::Hub;
use crate::ids::SubscriberId;

impl Hub {
    /// A newcomer is about to ask the broker for a place among its user's streams. [`Hub::drop_claim`] follows.
    pub fn begin_claim(&self, subscriber: SubscriberId, user: &Arc<str>) {
        if let Some(users) = &mut self.state.lock().users {
            users.claim(subscriber, user);
        }
    }

    /// For brokers: the store counts the newcomer. False when the claim was dropped.
    pub fn grant_claim(&self, subscriber: SubscriberId) -> bool {
        self.state.lock().users.as_mut().is_some_and(|users| users.grant(subscriber))
    }

    /// A newcomer no longer wants the place that it has claimed, or has become a subscriber, which keeps it.
    pub fn drop_claim(&self, subscriber: SubscriberId) {
        let mut state = self.state.lock();
        if let Some(change) = state.users.as_mut().and_then(|users| users.drop_claim(subscriber)) {
            self.presence.push(change);
        }
        drop(state);
        self.hand_over_presence();
    }

    /// Whether a newcomer holds a place that it has claimed.
    #[must_use]
    pub fn has_claim(&self, subscriber: SubscriberId) -> bool {
        self.state.lock().users.as_ref().is_some_and(|users| users.has_claim(subscriber))
    }
}
