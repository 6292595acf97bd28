//! How many streams each user has, where the hub limits them. A newcomer is refused in `terms.rs`, by `check_room`.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// The users with streams in this process. Names come from users: the standard, keyed hasher.
#[derive(Default)]
pub(super) struct Users(HashMap<Arc<str>, usize>);

impl Users {
    pub(super) fn count(&self, user: &str) -> usize {
        self.0.get(user).copied().unwrap_or_default()
    }

    pub(super) fn enter(&mut self, user: &Arc<str>) {
        *self.0.entry(user.clone()).or_default() += 1;
    }

    pub(super) fn exit(&mut self, user: &str) {
        if let Some(count) = self.0.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(user);
            }
        }
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
        users.enter(&ann);
        users.enter(&ann);
        users.exit("ann");
        assert_eq!((users.count("ann"), users.count("bob")), (1, 0));
        users.exit("ann");
        users.exit("ann");
        assert!(users.0.is_empty());
    }

    #[test]
    fn no_user_has_the_name_of_a_topic_or_of_another_user() {
        assert_eq!(name_in_presence("a\n\té"), "\u{1}610a09c3a9");
        assert!(crate::topic::Topic::new(&name_in_presence("ann")).is_err());
    }
}
