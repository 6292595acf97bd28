//! Entries as other processes wrote them, or anybody else: whatever their fields are, what is read is written back
//! the same, and an event stays one block of the stream, without an id but the hub's.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sse_hub::broker::letter::{Arrived, Letter};
use sse_hub::ids::{Epoch, EventId, StreamId};
use sse_hub::stream_broker::envelope::{self, Fields};

#[derive(Debug, Arbitrary)]
struct Input {
    version: bool,
    kind: u8,
    to: Option<Vec<u8>>,
    comment: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
    trace: Option<Vec<u8>>,
    is_traced: bool,
}

const TRACE: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn read(fields: &Fields<'_>) -> Arrived {
    let get = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| &**value);
    envelope::read(StreamId { ms: 5, seq: 0 }, &get)
}

fuzz_target!(|input: Input| {
    let mut fields: Fields<'_> = Vec::new();
    if input.version {
        fields.push(("v", b"1"[..].into()));
    }
    fields.push(("k", vec![b"taoiug"[usize::from(input.kind % 6)]].into()));
    let trace = if input.is_traced { Some(TRACE.to_vec()) } else { input.trace };
    let given = [("t", input.to), ("c", input.comment), ("d", input.data), ("p", input.before), ("w", trace)];
    for (name, value) in given {
        fields.extend(value.map(|value| (name, value.into())));
    }
    let Ok(letter) = read(&fields).letter else { return };
    let written = envelope::fields(&letter);
    let again = read(&written).letter.expect("what was written can be read");
    assert_eq!(envelope::fields(&again), written);
    let Letter::Event { draft, .. } = letter else { return };
    let id = EventId { epoch: Epoch::parse("fuzz").expect("a valid epoch"), seq: 7 };
    let frame = draft.seal(Some(id));
    let text = str::from_utf8(frame.sse()).expect("UTF-8");
    assert!(text.ends_with("\n\n"));
    assert!(!text.contains('\r'));
    assert!(!text[..text.len() - 1].contains("\n\n"), "one block: {text:?}");
    let ids = text.lines().filter(|line| line.split(':').next() == Some("id"));
    assert_eq!(ids.collect::<Vec<_>>(), ["id: fuzz-7"]);
});
