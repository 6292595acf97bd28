//! The one error type of the core. `py::exceptions` maps it to Python, in one place.

use std::time::Duration;

use thiserror::Error;

/// Bytes of a value shown in an error message.
const SHOWN_BYTES: usize = 100;

/// Everything the core refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of an event breaks a rule; the text names the value and the rule.
    #[error("{0}")]
    InvalidEvent(String),
    /// The encoded event is larger than the hub's `max_event_bytes`.
    #[error("event of {size} bytes is larger than max_event_bytes={limit}")]
    EventTooLarge {
        /// Bytes of the event on the wire.
        size: usize,
        /// The hub's limit, in bytes.
        limit: usize,
    },
    /// A topic's name or pattern breaks a rule; the text names the value and the rule.
    #[error("{0}")]
    InvalidTopic(String),
    /// An option is out of its range; the text names the option, the value and the rule.
    #[error("{0}")]
    InvalidOption(String),
    /// The publisher ran too far ahead of delivery; nothing was published.
    #[error(
        "{waiting} bytes wait for delivery, which is more than backlog_bytes={limit}; nothing was published"
    )]
    HubFull {
        /// Bytes that wait for the slowest reader.
        waiting: usize,
        /// The hub's limit, in bytes.
        limit: usize,
    },
    /// Subscribers came and left, or joined and left topics, while a reader did not run; nothing has changed.
    #[error(
        "an event loop with subscribers has not run while {waiting} bytes of joins and leaves waited for it, which is \
         more than {limit}; nothing has changed"
    )]
    ReaderBehind {
        /// Bytes of changes that wait for the slowest reader.
        waiting: usize,
        /// The hub's limit, in bytes.
        limit: usize,
    },
    /// A topic that was named has ended; nothing was published.
    #[error("topic {topic:?} has ended; nothing was published")]
    TopicEnded {
        /// Its name.
        topic: Box<str>,
    },
    /// The hub is closing.
    #[error("the hub is closing")]
    HubClosed,
    /// The subscriber's authorization has expired; nothing was subscribed.
    #[error("the authorization has expired: expires= was {} seconds ago", ago.as_secs())]
    Expired {
        /// For how long.
        ago: Duration,
    },
    /// The user has as many subscribers as it may.
    #[error("user {user} has max_per_user={limit} streams")]
    UserFull {
        /// The user, as an error shows it.
        user: Box<str>,
        /// The hub's limit.
        limit: usize,
    },
    /// A subscriber would be in more topics than it may; nothing has changed.
    #[error("{count} topics are more than max_topics={limit}; nothing has changed")]
    TooManyTopics {
        /// In how many it would be.
        count: usize,
        /// The hub's limit.
        limit: usize,
    },
    /// The hub has as many subscribers as it may.
    #[error("the hub has max_subscribers={limit} subscribers")]
    TooManySubscribers {
        /// The hub's limit.
        limit: usize,
    },
}

impl Error {
    pub(crate) fn no_topics() -> Self {
        Self::InvalidTopic("publish needs at least one topic; broadcast reaches everybody".into())
    }
}

/// The core's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A value as an error message shows it: quoted, and cut when it is long.
pub(crate) fn shown(value: &str) -> String {
    if value.len() <= SHOWN_BYTES {
        return format!("{value:?}");
    }
    let cut = (0..=SHOWN_BYTES).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
    format!("{:?}... ({} bytes)", &value[..cut], value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_cut_long_values() {
        let text = shown(&"é".repeat(1000));
        assert!(text.len() < 200, "{text}");
        assert!(text.ends_with("(2000 bytes)"), "{text}");
    }
}
