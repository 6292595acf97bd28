//! The terms of a subscriber, its place in a topic's list, and brokers to wake.

use std::sync::Arc;
use std::time::Duration;

use crate::compress::Zip;
use crate::deadlines::Heartbeat;
use crate::ending::Format;
use crate::queue::{Capacity, OverflowPolicy};
use crate::sync::assert_unlocked;
use crate::topic::TopicId;
use crate::waker::Wake;

/// Brokers to wake once the reader is unlocked, because the next piece of a client's gap is needed, or no more pieces
/// are. Transitions collect them here, and call nothing.
pub type BrokerWakes = Vec<Arc<dyn Wake>>;

/// Wake the collected brokers. No lock is held.
#[inline]
pub fn wake_brokers(wakes: BrokerWakes) {
    assert_unlocked();
    for broker in wakes {
        broker.wake();
    }
}

/// What a subscriber is allowed and promised. Subscribers with the same terms share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// How much may wait behind an unfinished write.
    pub capacity: Capacity,
    /// The policy beyond the capacity.
    pub overflow: OverflowPolicy,
    /// Shortest time between two writes of events; `None` where each is written when it comes.
    pub interval: Option<Duration>,
    /// Whether its body is compressed, behind a header that was sent.
    pub compress: bool,
    /// Longest time in which the client may take no bytes.
    pub stall_timeout: Duration,
    /// Whether the client gets the hub's own events. Without them, a gap breaks the stream off.
    pub control: bool,
    /// The form that the end of its topics takes.
    pub format: Option<Format>,
}

impl Terms {
    /// The beginning of a compressed body.
    pub(super) fn zip(&self) -> Option<Box<Zip>> {
        self.compress.then(|| Box::new(Zip::new(false)))
    }
}

/// The times of one subscriber, spread so that those of many do not come at once.
#[derive(Debug)]
pub struct Times {
    /// When it gets heartbeats; `None` for none.
    pub heartbeat: Option<Heartbeat>,
    /// How long the stream may last.
    pub limit: Option<Box<Limit>>,
}

/// The end of a stream's time.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// When, on the hub's clock.
    pub at: Duration,
    /// Whether its authorization expires; if not, the stream reaches its `max_age`.
    pub is_expiry: bool,
}

/// A topic of a subscriber, and the subscriber's place in the reader's list for it.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// The topic.
    pub topic: TopicId,
    /// From 0.
    pub place: usize,
}
