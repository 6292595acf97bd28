//! How streams end: for each reason, what still goes out, where, and what is left behind.

use std::sync::Arc;

use sse_hub::change::Who;
use sse_hub::error::Error;
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::subscriber::Taken;

use crate::support::{SECOND, STALL, World, config, draft, request, topics};

fn kicked() -> CloseReason {
    CloseReason::Kicked("out".into())
}

#[test]
fn most_reasons_let_what_is_queued_go_out_first() {
    let reasons = [
        (CloseReason::CLOSED, "closed", true),
        (kicked(), "out", true),
        (CloseReason::Closed { text: Some("stalled".into()), drains: true }, "stalled", true),
        (CloseReason::Closed { text: None, drains: false }, "closed", false),
        (CloseReason::MaxAge, "max_age", true),
        (CloseReason::Expired, "expired", true),
        (CloseReason::Revoked, "revoked", true),
        (CloseReason::HubClosed, "hub_closed", true),
        (CloseReason::Shutdown, "shutdown", true),
        (CloseReason::Client, "client", false),
        (CloseReason::Overflow, "overflow", false),
        (CloseReason::Stalled, "stalled", false),
    ];
    for (reason, word, drains) in reasons {
        let world = World::new(config());
        world.publish(&["a"], "past");
        let stream = world.subscribe(&Request { past: Some(Past::All), ..request(&["a"]) });
        world.publish(&["a"], "live");
        world.drain();
        assert!(stream.close(reason).is_some());
        world.publish(&["a"], "after");
        world.drain();
        let expected: &[&str] = if drains { &["stream-open #0", "past #1", "live #2"] } else { &[] };
        assert_eq!(stream.all(), expected, "{word}");
        assert_eq!((stream.take(), stream.closed()), (Taken::End, Some(word)));
        assert_eq!((world.hub.count(None), world.hub.unfinished()), (0, 0));
    }
}

#[test]
fn what_was_published_and_not_dispatched_yet_goes_out_before_a_close() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    let new = world.subscribe(&request(&["a"]));
    for stream in [&stream, &new] {
        let id = stream.identity.id;
        world.publish(&["a"], "1");
        world.hub.send(Some(id), draft("own")).unwrap();
        world.hub.join(id, &topics(&["b"])).unwrap();
        world.publish(&["b"], "2");
        world.hub.leave(id, &topics(&["b"]));
        world.publish(&["b"], "left");
        stream.close(CloseReason::CLOSED).unwrap();
        world.publish(&["a"], "after");
    }
    world.drain();
    assert_eq!(stream.all(), ["1 #1", "own", "2 #2"]);
    // "left", "after", and what the first one was sent are not its own.
    assert_eq!(new.all(), ["stream-open #0", "1 #1", "after #4", "1 #5", "own", "2 #6"]);
}

#[test]
fn an_end_that_is_on_its_way_is_the_reason() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.hub.disconnect(Who::Id(stream.identity.id), kicked());
    world.publish(&["a"], "after");
    stream.close(CloseReason::CLOSED).unwrap();
    assert_eq!((stream.all(), stream.closed()), (vec![], Some("out")));
}

#[test]
fn the_first_reason_stays_and_a_waiting_consumer_is_resumed_for_it() {
    let world = World::new(config());
    let parked = world.live(&["a"]);
    assert_eq!(parked.close(kicked()), Some(true));
    assert_eq!(parked.close(CloseReason::Client), None);
    assert!(!parked.leave(), "it was closed before");
    assert_eq!(parked.closed(), Some("out"));
    let away = world.subscribe(&request(&["a"]));
    assert_eq!(away.close(kicked()), Some(false), "it comes by itself");
    assert_eq!(world.stat("disconnected"), 2);
}

#[test]
fn a_kick_has_its_place_among_the_events() {
    let world = World::new(config());
    let other_loop = World::of(&world.hub);
    let ann = Request { user: Some("ann".into()), ..request(&["a"]) };
    let (first, second) = (world.live_with(&ann), other_loop.live_with(&ann));
    let bob = world.live_with(&Request { user: Some("bob".into()), ..request(&["a"]) });
    let nobody = world.live(&["a"]);
    world.publish(&["a"], "before");
    assert_eq!(world.hub.disconnect(Who::User("ann".into()), kicked()), 2);
    world.publish(&["a"], "after");
    let closed: Vec<_> = [world.drain(), other_loop.drain()].concat();
    let ids: Vec<_> = closed.iter().map(|(identity, _)| identity.id).collect();
    assert_eq!(ids, [first.identity.id, second.identity.id]);
    for stream in [&first, &second] {
        assert_eq!(stream.all(), ["before #1"]);
        assert_eq!((stream.take(), stream.closed()), (Taken::End, Some("out")));
    }
    for stream in [&bob, &nobody] {
        assert_eq!(stream.all(), ["before #1", "after #2"]);
    }
    assert_eq!(world.hub.disconnect(Who::User("ann".into()), kicked()), 0);
    assert_eq!(world.hub.disconnect(Who::Id(bob.identity.id), kicked()), 1);
    assert_eq!(world.hub.disconnect(Who::Id(first.identity.id), kicked()), 0);
    assert_eq!(world.drain().len(), 1);
    assert_eq!(world.hub.count(None), 1);
}

#[test]
fn a_stream_ends_at_its_max_age() {
    let world = World::new(config());
    let stream = world.live_with(&Request { max_age: Some(7 * SECOND), ..request(&["a"]) });
    assert!(world.pass(6 * SECOND).is_empty());
    world.publish(&["a"], "x");
    let closed = world.pass(SECOND);
    assert_eq!(closed[0].1, CloseReason::MaxAge);
    assert_eq!(stream.all(), ["x #1"]);
    assert_eq!(stream.take(), Taken::End);
}

#[test]
fn a_stream_ends_a_little_before_its_authorization_expires() {
    let world = World::new(config());
    let until = |seconds| Some(world.hub.clock.time_of_day() + seconds * SECOND);
    let stream = world.live_with(&Request { expires: until(9), ..request(&["a"]) });
    let aged = Request { expires: until(9), max_age: Some(SECOND * 2), ..request(&["a"]) };
    let aged = world.live_with(&aged);
    assert_eq!(world.pass(2 * SECOND)[0].1, CloseReason::MaxAge);
    assert_eq!(aged.closed(), Some("max_age"));
    assert!(world.pass(5 * SECOND).is_empty());
    world.publish(&["a"], "x");
    assert_eq!(world.pass(2 * SECOND)[0].1, CloseReason::Expired);
    assert_eq!(stream.all(), ["x #1"]);
    assert_eq!((stream.take(), stream.closed()), (Taken::End, Some("expired")));
}

#[test]
fn an_authorization_that_has_expired_subscribes_nothing() {
    let world = World::new(config());
    let now = world.hub.clock.time_of_day();
    let request = Request { expires: Some(now.saturating_sub(90 * SECOND)), ..request(&["a"]) };
    let Some(Error::Expired { ago }) = world.hub.subscribe(&world.reader, &request).err() else {
        panic!("it was subscribed")
    };
    assert!(ago >= 90 * SECOND);
    assert_eq!((world.hub.count(None), world.stat("connected")), (0, 0));
}

#[test]
fn a_closing_hub_delivers_what_was_published_and_takes_no_more() {
    let world = World::new(config());
    let streams: Vec<_> = (0..3).map(|_| world.live(&["a"])).collect();
    world.publish(&["a"], "last");
    world.hub.begin_close();
    assert_eq!(world.try_publish(&["a"], "x"), Err(Error::HubClosed));
    assert_eq!(world.hub.broadcast(draft("x")), Err(Error::HubClosed));
    assert_eq!(world.hub.send(Some(streams[0].identity.id), draft("x")), Err(Error::HubClosed));
    assert_eq!(world.try_subscribe(&request(&["a"])).err(), Some(Error::HubClosed));
    assert_eq!(world.hub.join(streams[0].identity.id, &[]), Err(Error::HubClosed));
    let closed = world.drain();
    assert_eq!(closed.len(), 3);
    assert!(closed.iter().all(|(_, reason)| *reason == CloseReason::HubClosed));
    for (at, stream) in streams.iter().enumerate() {
        assert_eq!(world.hub.unfinished(), 3 - at);
        assert_eq!(stream.all(), ["last #1"]);
    }
    assert_eq!((world.hub.unfinished(), world.stat("subscribers")), (0, 0));
}

#[test]
fn a_reused_key_keeps_nothing_of_its_former_subscriber() {
    let world = World::new(config());
    let old = world.live_with(&Request { max_age: Some(SECOND), ..request(&["a"]) });
    world.publish(&["a"], "for the old");
    world.drain();
    old.leave();
    let new = world.live(&["b"]);
    assert_eq!(new.identity.key, old.identity.key);
    world.publish(&["a"], "for nobody");
    assert_eq!(world.hub.send(Some(old.identity.id), draft("x")), Ok(false));
    assert!(world.pass(2 * SECOND).is_empty(), "the old one's age is not the new one's");
    assert_eq!(old.take(), Taken::End);
    assert_eq!(new.take(), Taken::Nothing);
    assert_eq!(new.closed(), None);
    assert_eq!(old.close(kicked()), None);
}

#[test]
fn a_client_that_leaves_between_joining_and_the_next_turn_is_gone() {
    let world = World::new(config());
    let stream = world.subscribe(&request(&["a"]));
    stream.leave();
    world.publish(&["a"], "x");
    world.drain();
    let next = world.subscribe(&request(&["b"]));
    assert_eq!(next.identity.key, stream.identity.key);
    world.publish(&["a"], "y");
    world.drain();
    assert_eq!(next.all(), ["stream-open #1"]);
}

#[test]
fn streams_that_come_and_go_leave_nothing_behind() {
    let world = World::new(config());
    let keeper = world.live(&["a"]);
    for _ in 0..5000 {
        world.live(&["a"]).leave();
    }
    world.drain();
    // Deadlines of the gone are thrown away in heaps: the loop does not wake for thousands of them.
    let mut looks = 0;
    let end = world.hub.clock.now() + STALL;
    while let Some(next) = world.turn().0.next.soonest().filter(|&next| next < end) {
        world.advance(next.saturating_sub(world.hub.clock.now()));
        while keeper.take() == Taken::Some {}
        looks += 1;
    }
    assert!(looks < 100, "{looks} looks");
    assert_eq!((world.hub.count(None), world.stat("connected"), world.stat("disconnected")), (1, 5001, 5000));
}

#[test]
fn nothing_of_a_gone_stream_keeps_an_event() {
    let mut config = config();
    config.retention.count = 0;
    let world = World::new(config);
    let stream = world.live(&["a"]);
    world.publish(&["a"], "x");
    world.drain();
    let mut out = Vec::new();
    world.hub.take(&world.reader, &stream.identity, &mut out);
    let entry = Arc::downgrade(&out[0]);
    drop(out);
    assert!(entry.upgrade().is_none(), "neither log, history nor queue holds what was delivered");
}
