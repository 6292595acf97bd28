//! Whatever is encoded, and cut anywhere, comes back from two parsers that were not written here, or was refused
//! where it was made. No parser ever finds a field that the event does not have.

use std::convert::Infallible;
use std::time::Duration;

use eventsource_stream::Eventsource;
use futures_util::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use sse_hub::event::check_event_type;
use sse_hub::frame::{self, FrameBuilder};
use sse_hub::ids::{Epoch, EventId};

/// One event as a publisher gives it.
#[derive(Debug, Clone)]
struct Given {
    comment: Option<String>,
    seq: Option<u64>,
    event: Option<String>,
    data: Option<Data>,
    retry: Option<u64>,
}

#[derive(Debug, Clone)]
enum Data {
    Text(String),
    Json(String),
}

/// One event as a parser dispatches it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    id: String,
    event: String,
    data: String,
    retry: Option<Duration>,
}

/// Any text, and more often than chance has it what could end a line or begin a field.
fn text() -> impl Strategy<Value = String> {
    let hostile = prop::sample::select(vec![
        "\r",
        "\n",
        "\r\n",
        "\n\n",
        "\0",
        ":",
        " ",
        "\u{feff}",
        "\u{2028}",
        "\u{85}",
        "\u{b}",
        "data: x",
        "id: 1",
        "event: e",
        "retry: 1",
        "é",
        "\u{1f600}",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(prop_oneof![hostile.prop_map(str::to_owned), "[a-z]{0,3}"], 0..8)
            .prop_map(|parts| parts.concat()),
    ]
}

fn given() -> impl Strategy<Value = Given> {
    let data = prop_oneof![
        text().prop_map(Data::Text),
        text().prop_map(|value| Data::Json(serde_json::to_string(&value).unwrap())),
    ];
    (
        prop::option::of(text()),
        prop::option::of(any::<u64>()),
        prop::option::of(text()),
        prop::option::of(data),
        prop::option::of(any::<u64>()),
    )
        .prop_map(|(comment, seq, event, data, retry)| Given { comment, seq, event, data, retry })
}

fn epoch() -> Epoch {
    Epoch::parse("k3f9x2").unwrap()
}

/// The event's frame; None when its name was refused.
fn encode(given: &Given) -> Option<frame::Frame> {
    if let Some(event) = &given.event
        && check_event_type(event).is_err()
    {
        return None;
    }
    let mut builder = FrameBuilder::new(given.comment.as_deref(), given.event.as_deref());
    match &given.data {
        Some(Data::Text(text)) => builder.text(text),
        Some(Data::Json(json)) => builder.json().extend_from_slice(json.as_bytes()),
        None => {}
    }
    let draft = builder.finish(given.retry);
    let (len, id) = (draft.len(), given.seq.map(|seq| EventId { epoch: epoch(), seq }));
    let frame = draft.seal(id);
    let id_line = id.map_or(0, |id| format!("id: {id}\n").len());
    assert_eq!(frame.sse().len(), len + id_line);
    Some(frame)
}

/// What a parser that follows the standard dispatches for these events. With data lines but no text the event
/// is dispatched too; only without any data line it is not, and then its id still counts.
fn expected(events: &[Given]) -> Vec<Seen> {
    let mut last_id = String::new();
    let mut seen = Vec::new();
    for given in events {
        if let Some(seq) = given.seq {
            last_id = EventId { epoch: epoch(), seq }.to_string();
        }
        let data = match &given.data {
            Some(Data::Text(text)) => text.replace("\r\n", "\n").replace('\r', "\n"),
            Some(Data::Json(json)) => json.clone(),
            None => continue,
        };
        seen.push(Seen {
            id: last_id.clone(),
            event: given.event.clone().unwrap_or_else(|| "message".to_owned()),
            data,
            retry: given.retry.map(Duration::from_millis),
        });
    }
    seen
}

/// The bytes in pieces, cut at the given places, inside characters and line ends too.
fn pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Result<Vec<u8>, Infallible>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| Ok(bytes[pair[0]..pair[1]].to_vec())).collect()
}

fn read_with_eventsource_stream(pieces: Vec<Result<Vec<u8>, Infallible>>) -> Vec<Seen> {
    let events =
        stream::iter(pieces).eventsource().collect::<Vec<_>>().now_or_never().expect("nothing to wait for");
    events
        .into_iter()
        .map(|event| event.expect("valid"))
        .map(|event| Seen { id: event.id, event: event.event, data: event.data, retry: event.retry })
        .collect()
}

fn read_with_sseer(pieces: Vec<Result<Vec<u8>, Infallible>>) -> Vec<Seen> {
    let events = sseer::EventStream::new(stream::iter(pieces))
        .collect::<Vec<_>>()
        .now_or_never()
        .expect("nothing to wait for");
    events
        .into_iter()
        .map(|event| event.expect("valid"))
        .map(|event| Seen {
            id: event.id.to_string(),
            event: event.event.to_string(),
            data: event.data.to_string(),
            retry: event.retry,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn events_come_back_or_were_refused(
        all in prop::collection::vec(given(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (mut wire, mut taken) = (Vec::new(), Vec::new());
        for given in all {
            if let Some(frame) = encode(&given) {
                wire.extend_from_slice(frame.sse());
                taken.push(given);
            } else {
                let name = given.event.as_deref().unwrap_or_default();
                prop_assert!(name.is_empty() || name.contains(char::is_control)
                    || name == "open" || name == "error" || name.starts_with("stream-"));
            }
        }
        let expected = expected(&taken);
        prop_assert_eq!(&read_with_eventsource_stream(pieces(&wire, &cuts)), &expected);
        prop_assert_eq!(&read_with_sseer(pieces(&wire, &cuts)), &expected);
    }

    #[test]
    fn a_chunk_is_the_event_as_http_frames_it(given in given()) {
        if let Some(frame) = encode(&given) {
            let sse = frame.sse();
            let expected = [format!("{:x}\r\n", sse.len()).as_bytes(), sse, b"\r\n"].concat();
            prop_assert_eq!(frame.chunk(), &expected[..]);
            prop_assert!(sse.ends_with(b"\n\n") || sse == b"\n");
        }
    }

    #[test]
    fn fields_with_other_line_ends_come_back(
        id in text(), event in text(), data in text(), comment in text(), crlf in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        // The sse-starlette classes write so: line ends are taken out of the id and the name.
        let sep = if crlf { "\r\n" } else { "\n" };
        let mut wire = Vec::new();
        frame::write_lines(&mut wire, ": ", &comment, sep);
        frame::write_joined(&mut wire, "id: ", &id, sep);
        frame::write_joined(&mut wire, "event: ", &event, sep);
        frame::write_lines(&mut wire, "data: ", &data, sep);
        wire.extend_from_slice(sep.as_bytes());
        let joined = |text: &str| text.replace(['\r', '\n'], "");
        // The standard ignores an id with NUL in it, and an empty name is no name.
        let expected = Seen {
            id: if id.contains('\0') { String::new() } else { joined(&id) },
            event: if joined(&event).is_empty() { "message".to_owned() } else { joined(&event) },
            data: data.replace("\r\n", "\n").replace('\r', "\n"),
            retry: None,
        };
        prop_assert_eq!(&read_with_eventsource_stream(pieces(&wire, &cuts)), std::slice::from_ref(&expected));
        prop_assert_eq!(&read_with_sseer(pieces(&wire, &cuts)), &[expected]);
    }

    #[test]
    fn an_id_is_read_back_and_nothing_else_is(text in text(), seq in any::<u64>()) {
        let id = EventId { epoch: epoch(), seq };
        prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
        if let Some(read) = EventId::parse(&text) {
            prop_assert_eq!(read.to_string(), text);
        }
    }
}
