//! Redis's replies, byte for byte, also such as no Redis sends: reading one neither panics nor takes too long.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis::parse_redis_value;
use sse_hub::redis::reply;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = parse_redis_value(bytes) else { return };
    if let Some(entries) = reply::range(&value) {
        for entry in &entries {
            assert_eq!(sse_hub::ids::StreamId::parse(&entry.id.to_string()), Some(entry.id));
        }
    }
    _ = reply::read(&value);
    _ = reply::last_id(&value);
    _ = reply::time(&value);
});
