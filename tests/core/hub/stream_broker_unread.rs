//! Ends by entries that a process does not read: the log had trimmed them, or they were in a gap.

use sse_hub::broker::Broker;
use sse_hub::identity::CloseReason;
use sse_hub::ids::StreamId;

use crate::memory_store::MemoryStore;
use crate::stream_broker::{Client, Worker, until};
use crate::stream_broker_ends::KEEP;
use crate::support::{MS, request};

/// A worker, another one with a client of the topic, and a gap in what that one reads, into which the topic's end falls.
fn missed_end(store: &MemoryStore) -> (Worker, Worker, Client, StreamId) {
    let (a, b) = (Worker::new(store), Worker::new(store));
    let client = b.live();
    store.with(|memory| memory.is_held = true);
    a.end(KEEP).unwrap();
    let behind = a.publish_elsewhere();
    store.with(|memory| {
        memory.trim(1);
        memory.is_held = false;
    });
    (a, b, client, behind)
}

#[test]
fn a_topic_that_ends_in_a_gap_ends_for_those_who_are_in_it() {
    let store = MemoryStore::default();
    let (a, b, mut client, behind) = missed_end(&store);
    let elsewhere = b.world.live(&["else"]);
    client.until(&b, |client| client.has_ended);
    assert_eq!(client.seen, ["stream-reset", "stream-end"]);
    assert!(b.world.has_everything(&["t"], client.last.as_deref().unwrap()));
    // A topic that has not ended goes on.
    until(|| b.world.hub.has_followed(behind));
    let next = a.publish_elsewhere();
    until(|| b.world.hub.has_followed(next));
    b.world.drain();
    assert!(elsewhere.all().last().is_some_and(|seen| seen.starts_with('x')));
}

#[test]
fn a_stream_whose_close_is_in_a_gap_closes() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let (client, other) = (b.world.live(&["t"]), b.world.live(&["t"]));
    store.with(|memory| memory.is_held = true);
    let reason = CloseReason::Closed { text: Some("done".into()), drains: true };
    assert!(b.world.hub.close_by_broker(&client.identity, &reason));
    until(|| b.broker.unsent() == 0);
    let behind = a.publish_elsewhere();
    store.with(|memory| {
        memory.trim(1);
        memory.is_held = false;
    });
    until(|| b.world.hub.has_followed(behind));
    b.world.drain();
    assert_eq!((client.closed(), other.closed()), (Some("done"), None));
}

#[test]
fn a_store_that_does_not_say_which_topics_have_ended_is_asked_again() {
    let store = MemoryStore::default();
    store.with(|memory| memory.is_silent_on_ends = true);
    let (_a, b, mut client, behind) = missed_end(&store);
    until(|| b.world.hub.has_followed(behind) && store.with(|memory| memory.asked_for_ends > 1));
    client.until(&b, |client| client.seen == ["stream-reset"]);
    store.with(|memory| memory.is_silent_on_ends = false);
    client.until(&b, |client| client.has_ended);
    assert_eq!(client.seen, ["stream-reset", "stream-end"]);
}

#[test]
fn a_topic_whose_end_the_log_has_lost_ends_once_the_log_goes_on() {
    let store = MemoryStore::default();
    let a = Worker::new(&store);
    a.publish_elsewhere();
    a.publish_elsewhere();
    a.end(KEEP).unwrap();
    // The store still refuses what is published to the topic.
    store.with(|memory| {
        memory.lose_tail(1, false);
        memory.trim(1);
    });
    let b = Worker::new(&store);
    let mut client = b.live();
    until(|| store.with(|memory| memory.asked_for_ends > 1));
    until(|| a.is_connected());
    // There is always a new topic to ask about, too.
    store.with(|memory| memory.delay = 5 * MS);
    let asked = store.with(|memory| memory.asked_for_ends);
    let mut streams = Vec::new();
    let mut newcomer = || streams.push(b.world.subscribe(&request(&[&streams.len().to_string()])));
    until(|| {
        newcomer();
        store.with(|memory| memory.asked_for_ends > asked + 10)
    });
    std::thread::scope(|scope| {
        scope.spawn(|| a.publish_elsewhere());
        until(|| {
            newcomer();
            client.poll(&b);
            client.has_ended
        });
    });
}

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
