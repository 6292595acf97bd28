//! Heartbeats: after silence only, a comment or the cursor, and the cursor only when it is the truth.

use std::time::Duration;

use sse_hub::hub::Request;
use sse_hub::queue::OverflowPolicy;
use sse_hub::subscriber::Taken;

use crate::support::{HEARTBEAT, MS, SECOND, World, config, request};

/// The shortest a client's own interval can be: the hub's is spread downwards.
const SHORTEST: Duration = Duration::from_millis(11_250);

#[test]
fn a_silent_stream_gets_a_comment_within_its_interval_and_not_before() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.pass(SHORTEST - MS);
    assert_eq!(stream.take(), Taken::Nothing);
    world.pass(HEARTBEAT - SHORTEST + MS);
    assert_eq!(stream.all(), [":"]);
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), [":"], "and again");
    assert_eq!(world.stat("heartbeats"), 2);
}

#[test]
fn an_event_is_as_good_as_a_heartbeat() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    for n in 1..=10 {
        world.pass(10 * SECOND);
        world.publish(&["a"], "x");
        world.drain();
        assert_eq!(stream.all(), [format!("x #{n}")]);
    }
}

#[test]
fn a_quiet_topics_client_gets_the_cursor_once_it_moved() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.publish(&["b"], "elsewhere");
    world.publish(&["b"], "elsewhere");
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), ["stream-cursor #2"]);
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), [":"], "it has that id");
}

#[test]
fn the_cursor_goes_no_further_than_what_was_dispatched() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.advance(HEARTBEAT);
    for _ in 0..1500 {
        world.publish(&["b"], "elsewhere");
    }
    let own = world.publish(&["a"], "mine");
    let (drained, _) = world.turn();
    assert!(drained.more);
    let seen = stream.once();
    assert_eq!(seen, ["stream-cursor #1024"], "its own event {own} is not dispatched yet");
    world.drain();
    assert_eq!(stream.all(), [format!("mine #{own}")]);
}

#[test]
fn a_heartbeat_has_no_id_while_initial_events_are_awaited() {
    let world = World::new(config());
    let stream = world.subscribe(&Request { initial: true, ..request(&["a"]) });
    assert_eq!(stream.all(), ["stream-open"]);
    world.publish(&["b"], "elsewhere");
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), [":"]);
    stream.initial(&["rows"]);
    assert_eq!(stream.all(), ["rows #0"]);
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), ["stream-cursor #1"]);
}

#[test]
fn a_consumer_that_was_away_gets_what_it_is_owed_when_it_is_back() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.publish(&["a"], "x");
    world.drain();
    assert_eq!(stream.once(), ["x #1"]);
    world.publish(&["b"], "elsewhere");
    world.pass(HEARTBEAT + SECOND);
    assert_eq!(stream.all(), ["stream-cursor #2"], "one, and the truth of now");

    world.publish(&["a"], "y");
    world.drain();
    assert_eq!(stream.once(), ["y #3"]);
    world.pass(HEARTBEAT + SECOND);
    world.publish(&["a"], "z");
    world.drain();
    assert_eq!(stream.all(), ["z #4"], "an event is as good");
}

#[test]
fn a_replay_under_way_is_not_overtaken_by_the_cursor() {
    let mut config = config();
    config.retention.count = 5000;
    let world = World::new(config);
    for n in 1..=1000 {
        world.publish(&["a"], &n.to_string());
    }
    let resume = Request { last_event_id: Some(world.id(0)), ..request(&["a"]) };
    let stream = world.subscribe(&resume);
    let first = stream.once();
    assert_eq!(first.last().unwrap(), "512 #512");
    for _ in 0..3 {
        world.publish(&["b"], "elsewhere");
    }
    world.pass(HEARTBEAT + SECOND);
    let rest = stream.all();
    assert_eq!(rest.first().unwrap(), "513 #513");
    assert_eq!(rest.last().unwrap(), "1000 #1000");
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), ["stream-cursor #1003"]);
}

#[test]
fn after_a_drop_the_cursor_follows_the_notice() {
    let world = World::new(config());
    let stream = world.live_with(&Request { overflow: Some(OverflowPolicy::DropNewest), ..request(&["a"]) });
    world.stick("a");
    world.publish(&["a"], "dropped");
    world.drain();
    assert_eq!(stream.all().last().unwrap(), r#"stream-lagged {"dropped":1}"#);
    world.pass(HEARTBEAT);
    assert_eq!(stream.all(), ["stream-cursor #9"]);
}

#[test]
fn heartbeats_can_be_switched_off() {
    let mut config = config();
    config.heartbeat = None;
    let world = World::new(config);
    let stream = world.live(&["a"]);
    assert_eq!(world.pass(HEARTBEAT * 100).len(), 0);
    assert_eq!(stream.take(), Taken::Nothing);
}

#[test]
fn the_phases_of_many_clients_are_spread() {
    let world = World::new(config());
    let streams: Vec<_> = (0..50).map(|_| world.live(&["a"])).collect();
    world.publish(&["a"], "x");
    world.drain();
    for stream in &streams {
        stream.all();
    }
    world.advance(SHORTEST - MS);
    let mut at_once = Vec::new();
    for _ in 0..=(HEARTBEAT - SHORTEST + MS).as_millis() / 50 {
        world.advance(50 * MS);
        world.drain();
        at_once.push(streams.iter().filter(|stream| stream.all() == [":"]).count());
    }
    assert_eq!(at_once.iter().sum::<usize>(), 50, "one each");
    // Of 76 moments; that 15 of 50 meet at one of them has a chance below 1e-12.
    assert!(at_once.iter().all(|&clients| clients < 15), "{at_once:?}");
}

#[test]
fn idle_clients_share_their_wake_ups() {
    let world = World::new(config());
    let streams: Vec<_> = (0..500)
        .map(|_| {
            world.advance(7 * MS);
            world.live(&["a"])
        })
        .collect();
    let mut wake_ups = 0;
    while world.stat("heartbeats") < 5000 {
        let next = world.turn().0.next.soonest().unwrap();
        world.advance(next.saturating_sub(world.hub.clock.now()));
        world.drain();
        for stream in &streams {
            stream.all();
        }
        wake_ups += 1;
    }
    // 256 of each 15 s; alone, each heartbeat and each check for stalls would be one.
    assert!(wake_ups <= 10 * 256, "{wake_ups}");
}

#[test]
fn a_hub_without_clients_has_nothing_due() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    assert!(world.turn().0.next.soonest().is_some());
    stream.leave();
    world.pass(HEARTBEAT * 4);
    assert_eq!(world.turn().0.next.soonest(), None);
}
