//! Topics that end by entries that a process does not read: the log had trimmed them, or they were in a gap.

use crate::memory_store::MemoryStore;
use crate::stream_broker::{Worker, until};
use crate::stream_broker_ends::KEEP;
use crate::support::{MS, request};

#[test]
fn many_new_topics_at_once_are_few_questions() {
    let store = MemoryStore::default();
    let a = Worker::new(&store);
    a.end(KEEP).unwrap();
    let behind = a.publish_elsewhere();
    store.with(|memory| memory.trim(1));
    let b = Worker::new(&store);
    until(|| b.world.hub.has_followed(behind));
    store.with(|memory| memory.delay = 20 * MS);
    let names: Vec<String> = (0..2000).map(|n| format!("new {n}")).collect();
    let _streams: Vec<_> = names.iter().map(|name| b.world.subscribe(&request(&[name]))).collect();
    let mut last = b.subscribe();
    last.until(&b, |client| client.has_ended);
    let asked = store.with(|memory| memory.asked_for_ends);
    assert!(asked < names.len() / 4, "{asked} questions");
    // The next client of a topic asks nothing.
    let _next = b.world.subscribe(&request(&[&names[0]]));
    b.publish_elsewhere();
    assert_eq!(store.with(|memory| memory.asked_for_ends), asked);
}
