//! How much is kept.

use std::time::Duration;

/// How much a topic keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// At most this many events; 0 keeps none.
    pub count: usize,
    /// At most this many bytes on the wire.
    pub bytes: usize,
    /// No event older than this.
    pub age: Option<Duration>,
}
