//! Streams without control events: what goes out instead, and how a gap breaks them off.

use sse_hub::history::{Past, Retention};
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::queue::OverflowPolicy;
use sse_hub::subscriber::Taken;

use crate::support::{HEARTBEAT, Stream, World, config, draft, request};

fn plain(names: &[&str]) -> Request {
    Request { no_control: true, ..request(names) }
}

/// The bytes of one visit.
fn bytes(stream: &Stream) -> String {
    let mut out = Vec::new();
    let _ = stream.hub.take(&stream.reader, &stream.identity, &mut out);
    out.iter().map(|entry| std::str::from_utf8(entry.frame.sse()).unwrap()).collect()
}

#[test]
fn the_id_and_retry_ride_in_the_block_of_the_first_event() {
    let world = World::new(config());
    world.publish(&["a"], "before");
    let stream = world.subscribe(&plain(&["a"]));
    world.hub.send(Some(stream.identity.id), draft("own")).unwrap();
    world.drain();
    let text = bytes(&stream);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], ": sse-hub");
    assert_eq!(lines[1], format!("id: {}", world.id(1)));
    assert!(lines[2].starts_with("retry: "));
    assert_eq!(lines[3..], ["data: own", ""]);
    world.publish(&["b"], "not its own");
    world.pass(HEARTBEAT);
    assert_eq!(bytes(&stream), ":\n", "no cursor, and no blank line");
}

#[test]
fn a_gap_that_is_known_on_joining_breaks_it_off() {
    let mut config = config();
    config.retention = Retention { count: 1, bytes: 1 << 20, age: None };
    let world = World::new(config);
    (0..3).for_each(|n| _ = world.publish(&["a"], &n.to_string()));
    let resumed = Request { last_event_id: Some(world.id(1)), ..plain(&["a"]) };
    let stream = world.subscribe(&resumed);
    assert_eq!(stream.recovered(), Some(false), "a response says so by its status");
    world.publish(&["a"], "live");
    world.drain();
    assert!(stream.once().iter().all(|seen| seen.starts_with('#')), "only the lines in front");
    assert_eq!(stream.take(), Taken::Gap);
    let complete = Request { last_event_id: Some(world.id(3)), ..plain(&["a"]) };
    assert_eq!(world.subscribe(&complete).all(), ["#3", "live #4"]);
}

#[test]
fn events_that_are_dropped_break_it_off() {
    for overflow in [OverflowPolicy::DropOldest, OverflowPolicy::DropNewest] {
        let world = World::new(config());
        let stream = world.live_with(&Request { overflow: Some(overflow), ..plain(&["a"]) });
        world.publish(&["a"], "1");
        world.drain();
        assert_eq!(stream.once(), ["1 #1"]);
        world.stick("u");
        (0..10).for_each(|n| _ = world.publish(&["a"], &n.to_string()));
        world.drain();
        let kept = stream.all();
        assert!(kept.iter().all(|seen| !seen.contains("lagged")), "{kept:?}");
        assert_eq!(kept.len(), if overflow == OverflowPolicy::DropNewest { 4 } else { 0 });
        assert_eq!(stream.take(), Taken::Gap);
        assert!(stream.close(CloseReason::Gap).is_some());
        assert_eq!((stream.take(), stream.closed()), (Taken::End, Some("gap")));
    }
}

#[test]
fn what_is_evicted_while_it_is_replayed_breaks_it_off() {
    let mut config = config();
    config.retention = Retention { count: 1000, bytes: 1 << 20, age: None };
    let world = World::new(config);
    (0..800).for_each(|n| _ = world.publish(&["a"], &n.to_string()));
    let stream = world.subscribe(&Request { last_event_id: Some(world.id(0)), ..plain(&["a"]) });
    assert_eq!(stream.once().len(), 513, "the head and a page");
    (0..1500).for_each(|n| _ = world.publish(&["a"], &n.to_string()));
    assert_eq!(stream.take(), Taken::Gap);
}

#[test]
fn initial_events_come_without_control_events() {
    let world = World::new(config());
    world.publish(&["a"], "past");
    for events in [&["one", "two"][..], &[]] {
        let stream = world.subscribe(&Request { initial: true, past: Some(Past::All), ..plain(&["a"]) });
        assert!(!bytes(&stream).contains("id: "), "the snapshot may never come");
        stream.initial(events);
        let expected: &[&str] = if events.is_empty() { &["#0", "past #1"] } else { &["one", "two #1"] };
        assert_eq!(stream.all(), expected);
    }
}
