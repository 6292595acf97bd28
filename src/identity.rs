//! What is known of a subscriber outside its reader, and why its stream ended.

use std::sync::{Arc, OnceLock};

use crate::ids::{GroupId, PublicId, ReaderId, SubscriberId};
use crate::outcome::Outcome;

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The client went away.
    Client,
    /// The application closed or dropped the subscription.
    Closed {
        /// The application's own words.
        text: Option<Arc<str>>,
        /// Whether what is queued still goes out.
        drains: bool,
    },
    /// `disconnect` was called, with these words.
    Kicked(Arc<str>),
    /// More waited behind an unfinished write than may, and the policy is to disconnect.
    Overflow,
    /// The client took nothing for `stall_timeout`.
    Stalled,
    /// The stream reached its `max_age`.
    MaxAge,
    /// The hub closed.
    HubClosed,
    /// The server is stopping.
    Shutdown,
    /// The application's initial events could not be made.
    Failed,
    /// The client missed something, and wants no control events by which it could be told.
    Gap,
    /// All its topics have ended, and the client was given everything.
    Ended,
}

impl CloseReason {
    /// The application closed the subscription and said no more.
    pub const CLOSED: Self = Self::Closed { text: None, drains: true };

    /// The word for this kind of end. The application's words are never among these.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Closed { .. } => "closed",
            Self::Kicked(_) => "kicked",
            Self::Overflow => "overflow",
            Self::Stalled => "stalled",
            Self::MaxAge => "max_age",
            Self::HubClosed => "hub_closed",
            Self::Shutdown => "shutdown",
            Self::Failed => "error",
            Self::Gap => "gap",
            Self::Ended => "ended",
        }
    }

    /// The text handed to `on_disconnect`: the application's words, or else the kind.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Closed { text: Some(text), .. } | Self::Kicked(text) => text,
            _ => self.kind(),
        }
    }

    /// Whether the response breaks off instead of coming to its end, so that a client does not take it for complete.
    #[must_use]
    pub fn breaks_body(&self) -> bool {
        matches!(self, Self::Failed | Self::Gap)
    }

    /// Whether what is queued still goes out.
    #[must_use]
    pub fn drains(&self) -> bool {
        !matches!(
            self,
            Self::Client | Self::Overflow | Self::Stalled | Self::Gap | Self::Closed { drains: false, .. }
        )
    }
}

/// What is known of a subscriber outside its reader.
pub struct Identity {
    /// Its number.
    pub id: SubscriberId,
    /// Whose it is, for `disconnect(user=…)`.
    pub user: Option<Arc<str>>,
    /// The group it ends with.
    pub group: GroupId,
    /// The reader that delivers to it.
    pub reader: ReaderId,
    /// Where it is at that reader.
    pub key: usize,
    /// Who it is now, once it was moved to another reader: what holds for it is said there.
    pub successor: OnceLock<Arc<Identity>>,
    /// Whether it resumed completely; none for a newcomer. Set on joining.
    pub recovered: OnceLock<Option<bool>>,
    /// Why it was closed, once it is.
    pub closed: OnceLock<CloseReason>,
    /// The names of the topics it had, once it is gone.
    pub last_topics: OnceLock<Vec<Arc<str>>>,
    /// Done when it is known where it begins; none when that was known at once.
    pub resolving: OnceLock<Arc<Outcome>>,
}

impl Identity {
    /// Its public id.
    #[must_use]
    pub fn name(&self) -> PublicId {
        self.id.public()
    }

    /// The same subscriber, at another reader and in another group.
    #[must_use]
    pub fn at(&self, reader: ReaderId, key: usize, group: GroupId) -> Self {
        Self {
            id: self.id,
            user: self.user.clone(),
            group,
            reader,
            key,
            successor: OnceLock::new(),
            recovered: self.recovered.clone(),
            closed: self.closed.clone(),
            last_topics: self.last_topics.clone(),
            resolving: self.resolving.clone(),
        }
    }

    /// Who it is now.
    #[must_use]
    pub fn current(self: &Arc<Self>) -> &Arc<Self> {
        let mut now = self;
        while let Some(next) = now.successor.get() {
            now = next;
        }
        now
    }
}
