//! What a subscriber knows of the ends of its topics.

use std::sync::Arc;

use crate::ending::TopicEnd;

/// What a subscriber knows of the ends of its topics.
#[derive(Debug, Default)]
pub(super) enum Finish {
    /// None has ended.
    #[default]
    None,
    /// This one was the last to end, and it is in others.
    Some(Arc<TopicEnd>),
    /// All have ended. Nothing is dispatched to it any more.
    All(Arc<TopicEnd>),
}
