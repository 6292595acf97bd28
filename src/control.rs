//! The hub's own events: how a stream opens, heartbeats, resets and notices of lag.

use std::sync::Arc;
use std::time::Duration;

use crate::deadlines::Heartbeat;
use crate::entry::{Cursor, Entry, Target};
use crate::frame::{Draft, Frame, FrameBuilder, escape_separators};

/// Wraps a frame that is for whoever it is handed to.
fn for_all(frame: Frame, cursor: Option<Cursor>, at: Duration) -> Entry {
    let entry = Entry::new(cursor.map(|cursor| cursor.seq), Target::All, at, frame);
    entry.named(cursor.map(|cursor| cursor.id))
}

fn entry(frame: Frame, cursor: Option<Cursor>, at: Duration) -> Arc<Entry> {
    Arc::new(for_all(frame, cursor, at))
}

/// The first bytes of every stream: a comment line (so that a byte order mark could not be eaten, and proxies
/// see a first byte), the client's own `retry:`, and `stream-open` with the cursor's id, from which a client
/// that is cut before its first event resumes. It has none where a `stream-reset` or initial events follow,
/// which carry it: a client cut between the two would resume past what it was not told of.
///
/// The comment names the longest silence of this stream, in seconds; 0 if it has no heartbeats.
///
/// Its data says `{"complete":false}` to a newcomer that asked for all of its topics' past (`replay="all"`) of which
/// the beginning is gone, and is empty otherwise.
#[must_use]
pub fn open(
    retry_ms: u64,
    cursor: Option<Cursor>,
    complete: bool,
    heartbeat: Option<Heartbeat>,
    at: Duration,
) -> Arc<Entry> {
    let silence = heartbeat.map_or(Duration::ZERO, |heartbeat| heartbeat.interval());
    let comment = format!("sse-hub heartbeat={}", silence.as_secs_f64());
    let mut builder = FrameBuilder::new(Some(&comment), Some("stream-open"));
    builder.text(if complete { "" } else { r#"{"complete":false}"# });
    entry(builder.finish(Some(retry_ms)).seal(cursor.map(|cursor| cursor.id)), cursor, at)
}

/// Why a replay cannot be proven complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The id is not one of this library's.
    Unknown,
    /// The id is from before the hub's start.
    Epoch,
    /// The id is beyond anything published.
    Ahead,
    /// History no longer reaches back to the id.
    Evicted,
    /// What the broker keeps does not continue where this hub's order ended.
    Broker,
}

impl ResetReason {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Epoch => "epoch",
            Self::Ahead => "ahead",
            Self::Evicted => "evicted",
            Self::Broker => "broker",
        }
    }
}

/// `stream-reset`: what the client missed cannot be proven complete. With an id, it goes on from there.
#[must_use]
pub fn reset(
    reason: ResetReason,
    requested: Option<&str>,
    cursor: Option<Cursor>,
    at: Duration,
) -> Arc<Entry> {
    Arc::new(reset_entry(reason, requested, cursor, at))
}

/// `stream-reset` for everybody: the hub's order goes on somewhere else.
#[must_use]
pub fn broken(cursor: Option<Cursor>, at: Duration) -> Arc<Entry> {
    Arc::new(reset_entry(ResetReason::Broker, None, cursor, at).breaking())
}

fn reset_entry(reason: ResetReason, requested: Option<&str>, cursor: Option<Cursor>, at: Duration) -> Entry {
    let mut data =
        serde_json::json!({ "reason": reason.as_str(), "requested": requested }).to_string().into_bytes();
    // `requested` is whatever the client sent.
    escape_separators(&mut data, 0);
    let mut builder = FrameBuilder::new(None, Some("stream-reset"));
    builder.json().extend_from_slice(&data);
    for_all(builder.finish(None).seal(cursor.map(|cursor| cursor.id)), cursor, at)
}

/// `stream-lagged`: this many events were dropped here.
#[must_use]
pub fn lagged(dropped: u64, at: Duration) -> Arc<Entry> {
    let mut builder = FrameBuilder::new(None, Some("stream-lagged"));
    builder.text(&serde_json::json!({ "dropped": dropped }).to_string());
    entry(builder.finish(None).seal(None), None, at)
}

/// The first bytes of a stream without control events: a comment line, and the `id:` and `retry:` that belong to
/// the block of the first event.
#[must_use]
pub fn preface(retry_ms: u64, cursor: Option<Cursor>, at: Duration) -> Arc<Entry> {
    let lines = FrameBuilder::new(Some("sse-hub"), None).finish_lines(Some(retry_ms));
    entry(lines.seal(cursor.map(|cursor| cursor.id)), cursor, at)
}

/// The `id:` of the block of the next event.
#[must_use]
pub fn bare_id(cursor: Cursor, at: Duration) -> Arc<Entry> {
    let lines = FrameBuilder::new(None, None).finish_lines(None);
    entry(lines.seal(Some(cursor.id)), Some(cursor), at)
}

/// A heartbeat for a client that has seen the newest id: a comment line and no blank one, at which some parsers
/// make an empty event once they have seen an id.
#[must_use]
pub fn heartbeat(at: Duration) -> Arc<Entry> {
    entry(Draft::empty_comment().seal(None), None, at)
}

/// A heartbeat for a client whose topics were quiet while the hub's cursor moved on: the new id, so that it
/// does not fall out of history.
#[must_use]
pub fn cursor(cursor: Cursor, at: Duration) -> Arc<Entry> {
    let mut builder = FrameBuilder::new(None, Some("stream-cursor"));
    builder.text("");
    entry(builder.finish(None).seal(Some(cursor.id)), Some(cursor), at)
}
