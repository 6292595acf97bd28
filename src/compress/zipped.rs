//! What takes the place of events.

use std::sync::Arc;
use std::time::Duration;

use crate::entry::{Entry, Target};
use crate::frame::Frame;

/// The compressed form of entries. It has a key if one of them has: the stream then carries values.
pub fn zipped(entries: &[Arc<Entry>], bytes: &[u8]) -> Arc<Entry> {
    let key = entries.iter().find_map(|entry| entry.key()).cloned();
    let at = entries.first().map_or(Duration::ZERO, |entry| entry.at);
    Arc::new(Entry::new(None, Target::All, at, Frame::of_bytes(bytes, key)))
}
