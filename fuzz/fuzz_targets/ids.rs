//! Ids as clients and brokers send them: an id that is accepted is written back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sse_hub::ids::{Epoch, EventId, MAX_ID_BYTES, StreamId, SubscriberId};

fuzz_target!(|text: &str| {
    if let Some(epoch) = Epoch::parse(text) {
        assert_eq!(epoch.as_str(), text);
    }
    if let Some(id) = EventId::parse(text) {
        assert!(text.len() <= MAX_ID_BYTES);
        assert_eq!(id.to_string(), text);
    }
    if let Some(id) = StreamId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert_eq!(id.event_id(), EventId::parse(text));
    }
    if let Some(id) = SubscriberId::from_public(text) {
        assert_eq!(&*id.public(), text);
    }
});
