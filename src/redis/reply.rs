//! Entries of the stream, out of Redis's replies (protocol RESP2).

use std::time::Duration;

use redis::Value;

use crate::broker::letter::Arrived;
use crate::ids::StreamId;
use crate::stream_broker::envelope;
use crate::stream_broker::store::Ended;
use crate::topic::Topic;

/// A reply that is a string; `None` for any other, such as that of a key that does not exist.
#[must_use]
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// One entry: `[id, [field, value, …]]`. `None` for an id that cannot be read, and for an entry that was deleted while
/// Redis made the reply.
fn entry(value: &Value) -> Option<Arrived> {
    let Value::Array(parts) = value else { return None };
    let id = StreamId::parse(text(parts.first()?)?)?;
    let fields: &[Value] = match parts.get(1) {
        Some(Value::Array(fields)) => fields,
        _ => &[],
    };
    let get = |name: &str| {
        let pairs = fields.chunks_exact(2);
        pairs.filter(|pair| text(&pair[0]) == Some(name)).find_map(|pair| match &pair[1] {
            Value::BulkString(bytes) => Some(bytes.as_slice()),
            _ => None,
        })
    };
    Some(envelope::read(id, &get))
}

/// The entries of an `XRANGE` or `XREVRANGE`; `None` for any other reply.
#[must_use]
pub fn range(value: &Value) -> Option<Vec<Arrived>> {
    match value {
        Value::Array(entries) => entries.iter().map(entry).collect(),
        _ => None,
    }
}

/// The entries of an `XREAD` of one stream, empty when there was nothing in time; `None` for any other reply.
#[must_use]
pub fn read(value: &Value) -> Option<Vec<Arrived>> {
    match value {
        Value::Nil => Some(Vec::new()),
        Value::Array(streams) => match streams.first()? {
            Value::Array(stream) => range(stream.get(1)?),
            _ => None,
        },
        _ => None,
    }
}

/// The last id that the stream gave, of an `XINFO STREAM`.
#[must_use]
pub fn last_id(value: &Value) -> Option<StreamId> {
    let Value::Array(fields) = value else { return None };
    let pair = fields.chunks_exact(2).find(|pair| text(&pair[0]) == Some("last-generated-id"))?;
    StreamId::parse(text(&pair[1])?)
}

/// How topics have ended: for each, `[topic, id and note, milliseconds]`. Anything else is passed over.
#[must_use]
pub fn ended(value: &Value) -> Vec<(Topic, Ended)> {
    let ended = |value: &Value| {
        let Value::Array(parts) = value else { return None };
        let topic = Topic::new(text(parts.first()?)?).ok()?;
        let (id, note) = text(parts.get(1)?)?.split_once(' ')?;
        let left = Duration::from_millis(text(parts.get(2)?)?.parse().ok()?);
        Some((topic, Ended { id: StreamId::parse(id)?, left, note: note.into() }))
    };
    match value {
        Value::Array(topics) => topics.iter().filter_map(ended).collect(),
        _ => Vec::new(),
    }
}

/// Seconds and microseconds of a `TIME`, as milliseconds.
#[must_use]
pub fn time(value: &Value) -> Option<u64> {
    let Value::Array(parts) = value else { return None };
    let seconds: u64 = text(parts.first()?)?.parse().ok()?;
    let micros: u64 = text(parts.get(1)?)?.parse().ok()?;
    seconds.checked_mul(1000)?.checked_add(micros / 1000)
}
