//! Entries of the stream, out of Redis's replies (protocol RESP2).

use redis::Value;

use crate::broker::letter::Arrived;
use crate::ids::StreamId;

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// One entry: `[id, [field, value, …]]`. None for one whose id is not to be read, or that was deleted while a
/// reply was made.
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
            Value::BulkString(bytes) => Some(bytes.clone()),
            _ => None,
        })
    };
    Some(Arrived::read(id, &get))
}

/// The entries of an `XRANGE` or `XREVRANGE`; none when the reply is no such thing.
#[must_use]
pub fn range(value: &Value) -> Option<Vec<Arrived>> {
    match value {
        Value::Array(entries) => entries.iter().map(entry).collect(),
        _ => None,
    }
}

/// The entries of an `XREAD` of one stream; empty when there was nothing in time, none when the reply is no
/// such thing.
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

/// Seconds and microseconds of a `TIME`, as milliseconds.
#[must_use]
pub fn time(value: &Value) -> Option<u64> {
    let Value::Array(parts) = value else { return None };
    let seconds: u64 = text(parts.first()?)?.parse().ok()?;
    let micros: u64 = text(parts.get(1)?)?.parse().ok()?;
    seconds.checked_mul(1000)?.checked_add(micros / 1000)
}
