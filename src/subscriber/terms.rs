//! What a subscriber is promised, where it is dispatched, and what a transition leaves to do.

use std::sync::Arc;
use std::time::Duration;

use crate::ending::Format;
use crate::heartbeat::Heartbeat;
use crate::queue::{Capacity, OverflowPolicy};
use crate::sync::assert_unlocked;
use crate::topic::TopicId;
use crate::waker::Wake;

/// Brokers to wake once the reader is unlocked: the next piece of what a client missed is wanted, or none is any
/// more. What a transition leaves to do is returned or collected; nothing is called from inside.
pub type BrokerWakes = Vec<Arc<dyn Wake>>;

/// Wake the brokers that the readers' subscribers ask for something. No lock is held.
#[inline]
pub fn wake_brokers(wakes: BrokerWakes) {
    assert_unlocked();
    for broker in wakes {
        broker.wake();
    }
}

/// What one subscriber is allowed and promised.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How much may wait behind an unfinished write.
    pub capacity: Capacity,
    /// What happens beyond.
    pub overflow: OverflowPolicy,
    /// When it gets heartbeats; none switches them off.
    pub heartbeat: Option<Heartbeat>,
    /// Longest time it may take nothing.
    pub stall_timeout: Duration,
    /// When the stream ends of itself, on the hub's clock.
    pub expires: Option<Duration>,
    /// Whether the client gets the hub's own events. Without them, a gap breaks the stream off.
    pub control: bool,
    /// The form that the end of its topics takes.
    pub format: Option<Format>,
}

/// A topic that a subscriber is dispatched by, and its place in the reader's list of those who are.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// The topic.
    pub topic: TopicId,
    /// From 0.
    pub place: usize,
}
