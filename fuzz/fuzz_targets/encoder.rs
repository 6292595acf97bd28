//! Events with any fields are encoded, cut anywhere, and read back by two parsers.
//!
//! Coverage leads it to what `tests/core/encoder_properties.rs` would need luck for.

#![no_main]

use std::convert::Infallible;
use std::time::Duration;

use arbitrary::Arbitrary;
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, StreamExt, stream};
use libfuzzer_sys::fuzz_target;
use sse_hub::event::check_event_type;
use sse_hub::frame::FrameBuilder;
use sse_hub::ids::{Epoch, EventId};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    events: Vec<Given<'a>>,
    cuts: Vec<u16>,
}

#[derive(Debug, Arbitrary)]
struct Given<'a> {
    comment: Option<&'a str>,
    seq: Option<u64>,
    event: Option<&'a str>,
    data: Option<&'a str>,
    retry: Option<u64>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    id: String,
    event: String,
    data: String,
    retry: Option<Duration>,
}

fn pieces(wire: &[u8], cuts: &[u16]) -> Vec<Result<Vec<u8>, Infallible>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (wire.len() + 1)).collect();
    at.extend([0, wire.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| Ok(wire[pair[0]..pair[1]].to_vec())).collect()
}

fuzz_target!(|input: Input| {
    let epoch = Epoch::parse("fuzz").expect("a valid epoch");
    let (mut wire, mut expected, mut last_id) = (Vec::new(), Vec::new(), String::new());
    for given in &input.events {
        if given.event.is_some_and(|event| check_event_type(event).is_err()) {
            continue;
        }
        let mut builder = FrameBuilder::new(given.comment, given.event);
        if let Some(data) = given.data {
            builder.text(data);
        }
        let id = given.seq.map(|seq| EventId { epoch, seq });
        let frame = builder.finish(given.retry).seal(id);
        let head = format!("{:x}\r\n", frame.sse().len());
        assert_eq!(frame.chunk(), [head.as_bytes(), frame.sse(), b"\r\n"].concat());
        wire.extend_from_slice(frame.sse());
        if let Some(id) = id {
            last_id = id.to_string();
        }
        if let Some(data) = given.data {
            expected.push(Seen {
                id: last_id.clone(),
                event: given.event.unwrap_or("message").to_owned(),
                data: data.replace("\r\n", "\n").replace('\r', "\n"),
                retry: given.retry.map(Duration::from_millis),
            });
        }
    }
    let read = stream::iter(pieces(&wire, &input.cuts)).eventsource().collect::<Vec<_>>().now_or_never();
    let seen: Vec<Seen> = read
        .expect("nothing to wait for")
        .into_iter()
        .map(|event| event.expect("valid"))
        .map(|event| Seen { id: event.id, event: event.event, data: event.data, retry: event.retry })
        .collect();
    assert_eq!(seen, expected);
    let read =
        sseer::EventStream::new(stream::iter(pieces(&wire, &input.cuts))).collect::<Vec<_>>().now_or_never();
    let seen: Vec<Seen> = read
        .expect("nothing to wait for")
        .into_iter()
        .map(|event| event.expect("valid"))
        .map(|event| Seen {
            id: event.id.to_string(),
            event: event.event.to_string(),
            data: event.data.to_string(),
            retry: event.retry,
        })
        .collect();
    assert_eq!(seen, expected);
});
