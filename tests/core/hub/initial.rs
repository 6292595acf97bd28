//! Initial events: what comes before them, after them, and instead of them.

use sse_hub::error::Error;
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::subscriber::Taken;

use crate::opening::small_history;
use crate::support::{Stream, World, config, draft, request, resume};

fn with_initial(world: &World) -> Stream {
    world.subscribe(&Request { initial: true, ..request(&["a"]) })
}

#[test]
fn nothing_newer_comes_before_the_initial_events_and_the_last_has_the_cursor() {
    let world = World::new(config());
    world.publish(&["a"], "1");
    let stream = with_initial(&world);
    world.publish(&["a"], "2");
    world.drain();
    assert_eq!(stream.all(), ["stream-open"], "an id before the snapshot would skip it");
    assert!(stream.initial(&["rows", "more rows"]), "its consumer waits");
    assert_eq!(stream.all(), ["rows", "more rows #1", "2 #2"]);
    assert!(!stream.initial(&["again"]), "it had them");
    assert_eq!(stream.take(), Taken::Nothing);
}

#[test]
fn no_initial_events_leave_the_cursor_alone() {
    let world = World::new(config());
    world.publish(&["a"], "1");
    let stream = with_initial(&world);
    stream.initial(&[]);
    assert_eq!(stream.all(), ["stream-open", "stream-cursor #1"]);
}

#[test]
fn initial_events_too_large_are_refused_whole() {
    let world = World::new(config());
    let stream = with_initial(&world);
    let large = "x".repeat(1 << 17);
    let events = vec![draft("small"), draft(&large)];
    let refused = world.hub.deliver_initial(&world.reader, &stream.identity, events);
    assert!(matches!(refused, Err(Error::EventTooLarge { .. })), "{refused:?}");
    stream.initial(&["small"]);
    assert_eq!(stream.all(), ["stream-open", "small #0"]);
}

#[test]
fn a_client_that_resumes_completely_gets_no_initial_events_and_others_get_them() {
    let world = small_history();
    for n in 1..=5 {
        world.publish(&["a"], &n.to_string());
    }
    let resumed = world.subscribe(&Request { initial: true, ..resume(&["a"], &world.id(3)) });
    assert_eq!(resumed.recovered(), Some(true));
    assert_eq!(resumed.all(), ["stream-open #3", "4 #4", "5 #5"]);
    let reset = world.subscribe(&Request { initial: true, ..resume(&["a"], &world.id(1)) });
    let opening = reset.all();
    assert_eq!(opening.len(), 2, "the snapshot covers what is left: {opening:?}");
    assert!(opening.iter().all(|event| !event.contains('#')), "{opening:?}");
    reset.initial(&["rows"]);
    assert_eq!(reset.all(), ["rows #5"]);
}

/// What is live without the snapshot under it would, by its ids, make the client resume past the snapshot.
#[test]
fn a_stream_that_ends_before_its_initial_events_gives_no_id() {
    for reason in [CloseReason::Shutdown, CloseReason::MaxAge, CloseReason::Kicked("out".into())] {
        let world = World::new(config());
        world.publish(&["a"], "1");
        let stream = world.subscribe(&Request { past: Some(Past::All), initial: true, ..request(&["a"]) });
        world.publish(&["a"], "2");
        world.drain();
        stream.close(reason);
        assert_eq!(stream.all(), ["stream-open"]);
        assert_eq!(stream.take(), Taken::End);
    }
}

#[test]
fn a_snapshot_is_not_followed_by_what_it_contains() {
    let world = small_history();
    world.publish(&["a"], "1");
    let asks = |request| Request { initial: true, past: Some(Past::All), ..request };
    let newcomer = world.subscribe(&asks(request(&["a"])));
    world.publish(&["a"], "2");
    world.drain();
    newcomer.initial(&["rows", "last"]);
    assert_eq!(newcomer.all(), ["stream-open", "rows", "last #1", "2 #2"]);
    // After a reset a client is a newcomer.
    (3..8).for_each(|n| _ = world.publish(&["a"], &n.to_string()));
    let back = world.subscribe(&asks(resume(&["a"], &world.id(1))));
    world.drain();
    back.initial(&["rows"]);
    let seen = back.all();
    assert!(seen[1].starts_with("stream-reset"), "{seen:?}");
    assert_eq!(seen[2..], ["rows #7"]);
    // Without initial events it gets what `replay` asks for.
    let nothing = world.subscribe(&asks(request(&["a"])));
    nothing.initial(&[]);
    assert_eq!(nothing.all()[1..], ["stream-cursor #4", "5 #5", "6 #6", "7 #7"]);
    // So does a client after a reset, whatever is left of its gap.
    let back = world.subscribe(&Request { initial: true, ..resume(&["a"], &world.id(1)) });
    back.initial(&[]);
    let seen = back.all();
    assert!(seen[1].starts_with("stream-reset"), "{seen:?}");
    assert_eq!(seen[2..], ["stream-cursor #7"]);
}

#[test]
fn what_waits_for_a_snapshot_is_bounded() {
    let mut small = config();
    small.capacity.bytes = 2000;
    small.retention.count = 1000;
    small.backlog_bytes = 1 << 24;
    let world = World::new(small);
    let stream = world.subscribe(&Request { initial: true, ..request(&["a"]) });
    let once: Vec<String> = (0..500).map(|n| format!("{n:0100}")).collect();
    for data in &once {
        world.publish(&["a"], data);
        world.drain();
    }
    assert_eq!(world.stat("initial_waiting"), 1);
    assert!(world.stat("initial_bytes") <= 2000, "{}", world.stat("initial_bytes"));
    assert_eq!(stream.once(), ["stream-open"]);
    stream.initial(&["rows"]);
    assert_eq!(world.stat("initial_waiting"), 0);
    let seen = stream.all();
    assert_eq!(seen.len(), 501, "history has what found no room");
    assert!(seen[1].starts_with(&once[0]) && seen[500].starts_with(&once[499]));
    // Beyond history too: a reset says so.
    let stream = world.subscribe(&Request { initial: true, ..request(&["a"]) });
    for n in 0..2000 {
        world.publish(&["a"], &format!("{n:0100}"));
        world.drain();
    }
    assert!(world.stat("initial_bytes") <= 2000);
    stream.initial(&["rows"]);
    let seen = stream.all();
    assert!(seen[2].starts_with("stream-reset"), "{:?}", &seen[..4]);
    assert!(seen.len() <= 1005);
}
