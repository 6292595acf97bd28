//! Changes of subscribers, which stand in the log among the events.

use std::sync::Arc;

use crate::ending::TopicEnd;
use crate::identity::{CloseReason, Identity};
use crate::ids::{GroupId, ReaderId, SubscriberId};
use crate::topic::{TopicId, TopicIds};

/// Whose streams end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// One subscriber.
    Id(SubscriberId),
    /// All of a user's.
    User(Arc<str>),
    /// All of a group.
    Group(GroupId),
    /// Every subscriber.
    All,
}

impl Who {
    /// Whether this subscriber is one of them.
    #[must_use]
    pub fn matches(&self, identity: &Identity) -> bool {
        match self {
            Self::Id(id) => identity.id == *id,
            Self::User(user) => identity.user.as_ref() == Some(user),
            Self::Group(group) => identity.group == *group,
            Self::All => true,
        }
    }
}

impl Change {
    /// About how many bytes the change holds in the log.
    #[must_use]
    pub fn size(&self) -> usize {
        let topics = match self {
            Self::Attach { topics, .. } | Self::Join { topics, .. } | Self::Leave { topics, .. } => {
                topics.len()
            }
            Self::Close { .. } | Self::Finish { .. } => 0,
        };
        size_of::<Self>() + topics * size_of::<TopicId>()
    }
}

/// A change of subscribers, in the order of the log.
#[derive(Debug)]
pub enum Change {
    /// A subscriber is attached to its reader.
    Attach {
        /// The reader it belongs to.
        reader: ReaderId,
        /// Its number.
        subscriber: SubscriberId,
        /// Its place at the reader.
        key: usize,
        /// Its topics.
        topics: TopicIds,
    },
    /// A subscriber joins topics.
    Join {
        /// Its number.
        subscriber: SubscriberId,
        /// The new ones.
        topics: TopicIds,
    },
    /// A subscriber leaves topics.
    Leave {
        /// Its number.
        subscriber: SubscriberId,
        /// The old ones.
        topics: TopicIds,
    },
    /// Streams end.
    Close {
        /// Whose.
        who: Who,
        /// Why.
        reason: CloseReason,
    },
    /// A topic ended, or a subscriber came all of whose topics have.
    Finish {
        /// Which.
        what: Finished,
        /// How.
        end: Arc<TopicEnd>,
    },
}

/// What an end is the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// A topic, for its subscribers.
    Topic(TopicId),
    /// One subscriber's stream.
    Subscriber(SubscriberId),
}
