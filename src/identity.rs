//! The identity of a subscriber, and the reasons for the end of a stream.

use std::sync::{Arc, OnceLock};

use crate::ids::{GroupId, PublicId, ReaderId, SubscriberId};
use crate::outcome::Outcome;

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The client left.
    Client,
    /// The application closed or dropped the subscription.
    Closed {
        /// The application's reason.
        text: Option<Arc<str>>,
        /// Whether what is queued still goes out.
        drains: bool,
    },
    /// `disconnect` was called with this reason.
    Kicked(Arc<str>),
    /// More waited behind an unfinished write than the capacity allows, and the policy is to disconnect.
    Overflow,
    /// The client took nothing for `stall_timeout`.
    Stalled,
    /// The stream reached its `max_age`.
    MaxAge,
    /// Its client's authorization is about to expire.
    Expired,
    /// The application allows none of its topics any more.
    Revoked,
    /// The hub closed.
    HubClosed,
    /// The server is stopping.
    Shutdown,
    /// The application failed to make its initial events.
    Failed,
    /// The client missed events, and without control events the gap cannot be announced.
    Gap,
    /// All its topics have ended, and the client was given everything.
    Ended,
}

impl CloseReason {
    /// The application closed the subscription without a reason.
    pub const CLOSED: Self = Self::Closed { text: None, drains: true };

    /// The kind of an end that no reader saw, because its event loop was closed.
    pub const LOOP_CLOSED: &'static str = "loop_closed";

    /// All kinds of ends.
    pub const KINDS: [&'static str; 14] = [
        "client",
        "closed",
        "kicked",
        "overflow",
        "stalled",
        "max_age",
        "expired",
        "revoked",
        "hub_closed",
        "shutdown",
        "error",
        "gap",
        "ended",
        Self::LOOP_CLOSED,
    ];

    /// The kind of this end; never a text of the application's.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Closed { .. } => "closed",
            Self::Kicked(_) => "kicked",
            Self::Overflow => "overflow",
            Self::Stalled => "stalled",
            Self::MaxAge => "max_age",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::HubClosed => "hub_closed",
            Self::Shutdown => "shutdown",
            Self::Failed => "error",
            Self::Gap => "gap",
            Self::Ended => "ended",
        }
    }

    /// The text handed to `on_disconnect`: the application's reason, or else the kind.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Closed { text: Some(text), .. } | Self::Kicked(text) => text,
            _ => self.kind(),
        }
    }

    /// Whether the body breaks off instead of ending, so that the client does not take it for complete.
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

/// What other parts know of a subscriber.
pub struct Identity {
    pub id: SubscriberId,
    /// Whose it is, for `disconnect(user=…)`.
    pub user: Option<Arc<str>>,
    /// The group it ends with.
    pub group: GroupId,
    /// The reader that delivers to it.
    pub reader: ReaderId,
    /// Its place at that reader.
    pub key: usize,
    /// Its identity after a transfer to another reader; this one then no longer changes.
    pub successor: OnceLock<Arc<Identity>>,
    /// Whether it resumed completely; `None` for a newcomer. Set when its start is resolved.
    pub recovered: OnceLock<Option<bool>>,
    /// Why its stream ended.
    pub closed: OnceLock<CloseReason>,
    /// The names of the topics it had when it was unregistered.
    pub last_topics: OnceLock<Vec<Arc<str>>>,
    /// Completed when its start is resolved; unset when that happened at once.
    pub resolving: OnceLock<Arc<Outcome>>,
}

/// An identity that need not be read to find its subscriber: among thousands of clients it is in none of the processor's
/// caches, and to fetch it costs 3 % of a write.
#[derive(Clone, Copy)]
pub struct Keyed<'a> {
    /// That of the identity.
    pub key: usize,
    pub identity: &'a Identity,
}

impl<'a> From<&'a Identity> for Keyed<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self { key: identity.key, identity }
    }
}

impl Identity {
    #[must_use]
    pub fn name(&self) -> PublicId {
        self.id.public()
    }

    /// The identity of the same subscriber at another reader and in another group.
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

    /// The identity after all transfers.
    #[must_use]
    pub fn current(self: &Arc<Self>) -> &Arc<Self> {
        let mut now = self;
        while let Some(next) = now.successor.get() {
            now = next;
        }
        now
    }
}
