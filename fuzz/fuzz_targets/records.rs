//! Files of a log, whatever is in them: no bytes make the reader panic, and a record whose checksums are right is read
//! as it was written, whatever its fields are.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sse_hub::file::format::{self, HEAD, Head, Parsed, RECORD};
use sse_hub::ids::StreamId;
use sse_hub::stream_broker::envelope::{self, LastTopic};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    file: &'a [u8],
    fields: &'a [u8],
    key: u32,
    offset: u32,
    ms: u32,
    counter: u16,
}

fuzz_target!(|input: Input<'_>| {
    let Input { file, fields, key, offset, ms, counter } = input;
    if let Ok(head) = Head::read(file) {
        assert_eq!(head.write().as_ref().map(|bytes| &bytes[..]), file.get(..HEAD));
    }
    let mut topics = LastTopic::default();
    let mut at = HEAD.min(file.len());
    while let Parsed::Header(header) = format::header(&file[at..], key, at as u64) {
        assert!(header.len >= RECORD && header.before < header.id);
        let Some(fields) = file[at..].get(RECORD..header.len) else { break };
        let _ = header.arrived(fields, header.is_sound(fields, key), &mut topics);
        at += header.len;
    }
    let id = StreamId { ms: u64::from(ms) + 1, seq: counter.into() };
    let (before, offset) = (StreamId { ms: ms.into(), seq: counter.into() }, offset.into());
    let mut record = Vec::new();
    assert!(format::put(&mut record, key, offset, id, before, fields));
    let Parsed::Header(header) = format::header(&record, key, offset) else {
        panic!("what was written is no record")
    };
    assert_eq!((header.len, header.id, header.before), (record.len(), id, before));
    assert!(header.is_sound(fields, key));
    if let Ok(letter) = header.arrived(fields, true, &mut topics).letter {
        let written = format::encode(&envelope::fields(&letter)).expect("it fits");
        assert!(format::put(&mut record, key, offset, id, before, &written));
    }
});
