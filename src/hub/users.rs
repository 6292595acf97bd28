//! How many streams each user has, where the hub limits them. A newcomer is refused in `terms.rs`, by `check_room`.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::broker::PresenceChange;
use crate::ids::SubscriberId;

/// The users with streams in this process. Names come from users: the standard, keyed hasher.
#[derive(Default)]
pub(super) struct Users {
    streams: HashMap<Arc<str>, usize>,
    claims: HashMap<SubscriberId, Claim>,
}

/// The place that a newcomer claims.
struct Claim {
    user: Arc<str>,
    /// The store counts it.
    is_granted: bool,
}

impl Users {
    pub(super) fn count(&self, user: &str) -> usize {
        self.streams.get(user).copied().unwrap_or_default()
    }

    pub(super) fn enter(&mut self, subscriber: SubscriberId, user: &Arc<str>) {
        *self.streams.entry(user.clone()).or_default() += 1;
        self.claims.remove(&subscriber);
    }

    pub(super) fn exit(&mut self, user: &str) {
        if let Some(count) = self.streams.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.streams.remove(user);
            }
        }
    }

    pub(super) fn claim(&mut self, subscriber: SubscriberId, user: &Arc<str>) {
        self.claims.insert(subscriber, Claim { user: user.clone(), is_granted: false });
    }

    /// The store counts a newcomer now. False when its claim was dropped.
    pub(super) fn grant(&mut self, subscriber: SubscriberId) -> bool {
        self.claims.get_mut(&subscriber).map(|claim| claim.is_granted = true).is_some()
    }

    /// Drop a claim; what presence must learn of it, if it was granted.
    pub(super) fn drop_claim(&mut self, subscriber: SubscriberId) -> Option<PresenceChange> {
        let claim = self.claims.remove(&subscriber).filter(|claim| claim.is_granted)?;
        Some(PresenceChange::of_user(subscriber, &claim.user, false))
    }

    pub(super) fn has_claim(&self, subscriber: SubscriberId) -> bool {
        self.claims.get(&subscriber).is_some_and(|claim| claim.is_granted)
    }

    /// The granted claims, for a table of presence that is written anew.
    pub(super) fn claimed(&self) -> impl Iterator<Item = PresenceChange> {
        let granted = self.claims.iter().filter(|(_, claim)| claim.is_granted);
        granted.map(|(id, claim)| PresenceChange::of_user(*id, &claim.user, true))
    }
}

impl PresenceChange {
    /// A subscriber is among its user's streams, or no longer is.
    #[must_use]
    pub fn of_user(subscriber: SubscriberId, user: &str, is_in: bool) -> Self {
        let topics = vec![name_in_presence(user).into()];
        Self { subscriber: (*subscriber.public()).into(), topics, is_in }
    }
}

/// The name under which presence lists a user's subscribers, beside the topics'. It begins with a control character,
/// which no topic's name has, and has the user's name in hexadecimal, because that may be any text.
#[must_use]
pub fn name_in_presence(user: &str) -> String {
    user.bytes().fold(String::from("\u{1}"), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_forgotten_with_the_last_stream() {
        let (mut users, ann) = (Users::default(), Arc::from("ann"));
        users.enter(SubscriberId(1), &ann);
        users.enter(SubscriberId(2), &ann);
        users.exit("ann");
        assert_eq!((users.count("ann"), users.count("bob")), (1, 0));
        users.exit("ann");
        users.exit("ann");
        assert!(users.streams.is_empty());
    }

    #[test]
    fn no_user_has_the_name_of_a_topic_or_of_another_user() {
        assert_eq!(name_in_presence("a\n\té"), "\u{1}610a09c3a9");
        assert!(crate::topic::Topic::new(&name_in_presence("ann")).is_err());
    }
}
