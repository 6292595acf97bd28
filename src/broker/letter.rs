//! The letters that the processes of a hub post to each other.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::ending::{EndState, Ending};
use crate::frame::Draft;
use crate::ids::StreamId;
use crate::topic::Topic;

/// The topics of an event; nearly always one.
pub type Topics = SmallVec<[Topic; 1]>;

/// The subscribers that get an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum To {
    /// The subscribers of these topics.
    Topics(Topics),
    /// Every subscriber.
    All,
    /// One, by its public id.
    One(Box<str>),
}

/// Whose streams end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One subscriber's, by its public id.
    Id(Box<str>),
    /// All of a user's.
    User(Arc<str>),
}

/// A letter.
#[derive(Debug)]
pub enum Letter {
    /// An event.
    Event {
        /// Its subscribers.
        to: To,
        /// The event without its id.
        draft: Draft,
    },
    /// Streams end.
    Kick {
        /// Whose.
        whose: Whose,
        /// The reason given to `on_disconnect`.
        reason: Arc<str>,
    },
    /// A step in the life of a topic.
    Life {
        /// Which topic.
        topic: Topic,
        /// What happens to it.
        step: Step,
    },
    /// The holder of a lease gives it up, for which other processes wait. Posted under [`Fence::Held`].
    Release {
        /// The lease's name.
        lease: Arc<str>,
    },
}

/// A step in the life of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Everything is kept from here on: it is a run's.
    Begin {
        /// How long the name is not free once the run has ended.
        keep: Duration,
    },
    /// Its run is to stop, wherever it runs.
    Stop,
    /// It ends.
    End {
        /// How long its name is not free.
        keep: Duration,
        /// How.
        ending: Ending,
    },
}

impl Step {
    /// The state of an end.
    #[must_use]
    pub fn end(&self) -> Option<EndState> {
        match self {
            Self::End { ending, .. } => Some(ending.state),
            Self::Begin { .. } | Self::Stop => None,
        }
    }
}

/// What must hold at the moment at which a letter is appended, or it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// This lease is held with this token.
    Held {
        /// The lease's name.
        lease: Arc<str>,
        /// What its holder has.
        token: Arc<str>,
    },
    /// Nobody holds this lease.
    Free {
        /// The lease's name.
        lease: Arc<str>,
    },
}

/// An entry of the broker's log.
#[derive(Debug)]
pub struct Arrived {
    /// Its id.
    pub id: StreamId,
    /// The id of the entry before it, which proves that nothing is missing between the two; `None` in an entry that
    /// no hub wrote.
    pub before: Option<StreamId>,
    /// Its letter, or why it has none.
    pub letter: Result<Letter, Unread>,
}

/// Why an entry has no letter. It breaks the log: entries may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// A hub wrote it to say that entries before it may be missing.
    Gap,
    /// Another version of this crate wrote it.
    Version,
    /// It is damaged, or no hub wrote it.
    Damaged,
}

impl Letter {
    /// About how many bytes the letter holds.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Event { draft, .. } => draft.len(),
            Self::Kick { reason, .. } => reason.len(),
            Self::Life { topic, .. } => topic.as_str().len(),
            Self::Release { lease } => lease.len(),
        }
    }

    /// Whether it has no bytes: only a kick without a reason has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the entry's id becomes the event's.
    #[must_use]
    pub fn carries_id(&self) -> bool {
        match self {
            Self::Event { to, .. } => !matches!(to, To::One(_)),
            Self::Life { step, .. } => matches!(step, Step::End { .. }),
            Self::Kick { .. } | Self::Release { .. } => false,
        }
    }

    /// The topics that must not have ended.
    #[must_use]
    pub fn needs_open(&self) -> &[Topic] {
        match self {
            Self::Event { to: To::Topics(topics), .. } => topics,
            Self::Life { topic, .. } => std::slice::from_ref(topic),
            Self::Event { .. } | Self::Kick { .. } | Self::Release { .. } => &[],
        }
    }
}
