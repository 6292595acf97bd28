//! Who gets what from when on: the changes of that, which are in the log among the events.

use std::sync::Arc;

use crate::ending::TopicEnd;
use crate::identity::{CloseReason, Identity};
use crate::ids::{GroupId, ReaderId, SubscriberId};
use crate::topic::{TopicId, TopicIds};

/// Who is meant by a kick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// One subscriber.
    Id(SubscriberId),
    /// All of a user's.
    User(Arc<str>),
    /// All of a group.
    Group(GroupId),
    /// Everybody.
    All,
}

impl Who {
    /// Whether it is this subscriber.
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
    /// Bytes that the change holds in the log, about.
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

/// A change of who gets what, in the order of the log.
#[derive(Debug)]
pub enum Change {
    /// A subscriber begins.
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
    /// It gets more topics.
    Join {
        /// Its number.
        subscriber: SubscriberId,
        /// The new ones.
        topics: TopicIds,
    },
    /// It gets fewer topics.
    Leave {
        /// Its number.
        subscriber: SubscriberId,
        /// The ones to leave.
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
