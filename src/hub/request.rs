//! The request of a subscriber, and the hub's question to the broker about it.

use std::sync::Arc;
use std::time::Duration;

use crate::ending::Format;
use crate::history::Past;
use crate::ids::{GroupId, StreamId, SubscriberId};
use crate::queue::OverflowPolicy;
use crate::topic::Topic;

/// What a subscriber requests.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "options, which have nothing to do with each other")]
pub struct Request {
    /// Its topics. Without any, `broadcast` and `send` still reach it.
    pub topics: Vec<Topic>,
    /// The last id of the client, unchecked.
    pub last_event_id: Option<String>,
    /// How much past a newcomer gets.
    pub past: Option<Past>,
    /// Whether the application will give initial events, unless it resumes completely.
    pub initial: bool,
    /// The user it belongs to, for `disconnect(user=…)`.
    pub user: Option<Arc<str>>,
    /// How many streams that user may have in this process; `None` for the hub's `max_per_user`.
    pub user_room: Option<usize>,
    /// The id with which it has claimed a place among that user's streams in all processes.
    pub claim: Option<SubscriberId>,
    /// Instead of the hub's.
    pub overflow: Option<OverflowPolicy>,
    /// Instead of the hub's, in events.
    pub capacity: Option<usize>,
    /// Shortest time between two writes of events, instead of the hub's.
    pub interval: Option<Duration>,
    /// Whether its client takes gzip, and was sent the header of such a body.
    pub compress: bool,
    /// How long the stream may last.
    pub max_age: Option<Duration>,
    /// When its authorization expires, since the Unix epoch.
    pub expires: Option<Duration>,
    /// The group with which it is closed.
    pub group: GroupId,
    /// Whether the client gets none of the hub's own events.
    pub no_control: bool,
    /// Whether its topic is a run, of which the stream carries the events and no broadcasts. Everything of the topic is
    /// kept anyway, so any number of events may wait for it.
    pub follows_run: bool,
    /// The form that the end of its topics takes.
    pub format: Option<Format>,
}

impl Request {
    /// Whether the client gets the opening at first, as it is: it names no id and gets no past. A compressed body begins
    /// when the reader knows its topics, by which its window is chosen.
    #[must_use]
    pub fn begins_plain(&self) -> bool {
        self.given().is_none() && self.past.is_none() && !self.compress
    }

    /// The last id, unless it is empty.
    pub(super) fn given(&self) -> Option<&str> {
        self.last_event_id.as_deref().filter(|id| !id.is_empty())
    }
}

/// Where does a newcomer start, or a client with this last id?
pub(super) struct Question(pub Option<StreamId>);
