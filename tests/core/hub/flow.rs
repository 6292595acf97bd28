//! Slow consumers, slow loops, and publishers that run ahead: which are cut, which wait, which are refused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sse_hub::error::Error;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::queue::OverflowPolicy;
use sse_hub::subscriber::Taken;

use crate::support::{MS, SECOND, Stream, World, config, draft, request, topics};

pub fn with_policy(world: &World, overflow: OverflowPolicy) -> Stream {
    world.live_with(&Request { overflow: Some(overflow), ..request(&["a"]) })
}

pub fn numbers(of: impl Iterator<Item = u64>) -> Vec<String> {
    of.map(|n| format!("{n} #{n}")).collect()
}

pub fn publish(world: &World, numbers: impl Iterator<Item = u64>) {
    numbers.for_each(|n| assert_eq!(world.publish(&["a"], &n.to_string()), n));
}

#[test]
fn a_burst_never_cuts_a_healthy_client() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    publish(&world, 1..=5000);
    world.drain();
    assert_eq!(stream.all(), numbers(1..=5000));
}

/// A client whose consumer does not come for so many turns, in each of which `events` are published and `time` passes.
pub fn away(turns: u64, events: u64, time: Duration) -> (World, Stream) {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    for turn in 0..turns {
        publish(&world, turn * events + 1..=(turn + 1) * events);
        world.turn();
        world.advance(time);
    }
    (world, stream)
}

#[test]
fn many_turns_in_a_short_time_are_no_unfinished_write() {
    let (world, stream) = away(100, 1, Duration::ZERO);
    world.advance(19 * MS);
    publish(&world, 101..=101);
    world.turn();
    assert_eq!(stream.all(), numbers(1..=101));
}

#[test]
fn a_long_time_in_few_turns_is_no_unfinished_write() {
    // The loop was blocked: its consumers had no turn to come back in.
    let (_world, stream) = away(7, 10, SECOND);
    assert_eq!(stream.all(), numbers(1..=70));
}

#[test]
fn a_stuck_client_is_disconnected_and_loses_nothing() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.stick("a");
    world.publish(&["a"], "9");
    let closed = world.drain();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].1, CloseReason::Overflow);
    assert_eq!(stream.take(), Taken::End);
    assert_eq!((world.stat("overflowed"), world.stat("subscribers"), world.stat("dropped")), (1, 0, 0));
    let again = world.subscribe(&Request { last_event_id: Some(world.id(0)), ..request(&["a"]) });
    assert_eq!(again.recovered(), Some(true));
    assert_eq!(again.all().len(), 10);
}

#[test]
fn a_consumer_that_comes_back_is_not_stuck_any_more() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.stick("a");
    assert_eq!(stream.take(), Taken::Some);
    publish(&world, 9..=30);
    assert!(world.drain().is_empty());
    assert_eq!(stream.all(), numbers(9..=30));
}

#[test]
fn the_oldest_go_first_and_are_counted() {
    let world = World::new(config());
    let stream = with_policy(&world, OverflowPolicy::DropOldest);
    world.stick("a");
    publish(&world, 9..=10);
    world.drain();
    assert_eq!(
        stream.all(),
        [r#"stream-lagged {"dropped":6}"#, "stick #7", "stick #8", "9 #9", "10 #10"],
        "the last four of ten"
    );
    assert_eq!(world.stat("dropped"), 6);
    publish(&world, 11..=11);
    world.drain();
    assert_eq!(stream.all(), ["11 #11"], "said once");
}

#[test]
fn the_newest_are_dropped_and_counted() {
    let world = World::new(config());
    let stream = with_policy(&world, OverflowPolicy::DropNewest);
    world.stick("a");
    publish(&world, 9..=10);
    world.drain();
    let all = stream.all();
    assert_eq!(
        (all.len(), all[7].as_str(), all[8].as_str()),
        (9, "stick #8", r#"stream-lagged {"dropped":2}"#)
    );
    publish(&world, 11..=11);
    world.drain();
    assert_eq!(stream.all(), ["11 #11"]);
}

#[test]
fn a_client_may_have_its_own_capacity_and_the_limit_in_bytes_holds_too() {
    let mut config = config();
    config.capacity.bytes = 2000;
    let world = World::new(config);
    let roomy = world.live_with(&Request { capacity: Some(1000), ..request(&["a"]) });
    let other = world.live(&["a"]);
    world.stick("a");
    publish(&world, 9..=9);
    world.drain();
    assert_eq!((roomy.closed(), other.closed()), (None, Some("overflow")));
    world.publish(&["a"], &"x".repeat(2000));
    world.drain();
    assert_eq!(roomy.closed(), Some("overflow"));
}

#[test]
fn what_waits_for_initial_events_is_not_behind_a_write() {
    let world = World::new(config());
    let stream = world.subscribe(&Request { initial: true, ..request(&["a"]) });
    stream.take();
    world.drain();
    world.stick("a");
    publish(&world, 9..=20);
    world.drain();
    stream.initial(&[]);
    assert_eq!(stream.all().len(), 21);
}

/// Cut in the middle of a long replay it would come back as far behind as before, and be cut again.
#[test]
fn a_client_that_takes_its_replay_is_not_cut_for_what_is_published_meanwhile() {
    let mut config = config();
    config.retention.count = 5000;
    let world = World::new(config);
    publish(&world, 1..=3000);
    let stream = world.subscribe(&Request { last_event_id: Some(world.id(0)), ..request(&["a"]) });
    let mut got = Vec::new();
    let mut head = 3000;
    while head < 3050 {
        // Each write takes it long enough to count as unfinished.
        for _ in 0..10 {
            head += 1;
            publish(&world, head..=head);
            world.turn();
            world.advance(3 * MS);
        }
        got.extend(stream.once());
    }
    got.extend(stream.all());
    assert_eq!((stream.closed(), &got[1..]), (None, &numbers(1..=3050)[..]));

    // With what history cannot give again it waits like anybody else.
    let stream = world.subscribe(&Request { last_event_id: Some(world.id(0)), ..request(&["a"]) });
    world.drain();
    stream.take();
    assert_eq!(world.hub.send(Some(stream.identity.id), draft("for one")), Ok(true));
    world.stick("a");
    world.publish(&["a"], "too much");
    world.drain();
    assert_eq!(stream.closed(), Some("overflow"));
}

#[test]
fn a_replay_does_not_take_over_what_is_not_of_its_topics() {
    let mut config = config();
    config.retention.count = 5000;
    let world = World::new(config);
    publish(&world, 1..=3000);
    let stream = world.subscribe(&Request { last_event_id: Some(world.id(0)), ..request(&["a"]) });
    world.drain();
    stream.take();
    // It was in another topic for a moment, which the replay does not know.
    assert_eq!(world.hub.join(stream.identity.id, &topics(&["c"])), Ok(true));
    world.publish(&["c"], "of c");
    assert!(world.hub.leave(stream.identity.id, &topics(&["c"])));
    world.stick("a");
    world.publish(&["a"], "too much");
    world.drain();
    assert_eq!(stream.closed(), Some("overflow"), "or the event of c would be missing without a word");
}

#[test]
fn a_publisher_ahead_of_a_slow_loop_is_refused_and_nothing_is_published() {
    let mut config = config();
    config.backlog_bytes = 1000;
    let fast = World::new(config);
    let slow = World::of(&fast.hub);
    let (quick, waiting) = (fast.live(&["a"]), slow.live(&["a"]));
    let mut published = 0;
    let refused = loop {
        match fast.try_publish(&["a"], &"x".repeat(100)) {
            Ok(_) => published += 1,
            Err(error) => break error,
        }
        fast.drain();
    };
    let Error::HubFull { waiting: bytes, limit: 1000 } = refused else { panic!("{refused:?}") };
    assert!(bytes <= 1000 && fast.hub.is_pressed(110));
    assert_eq!(fast.stat("backlog_bytes"), bytes as u64);
    for _ in 0..3 {
        assert!(matches!(fast.hub.broadcast(draft(&"x".repeat(100))), Err(Error::HubFull { .. })));
        let send = fast.hub.send(Some(quick.identity.id), draft(&"x".repeat(100)));
        assert!(matches!(send, Err(Error::HubFull { .. })));
    }
    assert_eq!(
        (fast.stat("published"), fast.stat("refused"), fast.stat("cursor")),
        (published, 7, published)
    );
    fast.drain();
    assert_eq!(quick.all().len() as u64, published);
    slow.drain();
    assert_eq!(fast.stat("backlog_bytes"), 0);
    assert_eq!(fast.publish(&["a"], "after"), published + 1, "no number was used up");
    slow.drain();
    assert_eq!(waiting.all().len() as u64, published + 1);
}

#[test]
fn one_event_larger_than_the_backlog_is_let_in_alone_and_one_too_large_never() {
    let mut config = config();
    (config.backlog_bytes, config.max_event_bytes) = (100, 1000);
    let world = World::new(config);
    let _stream = world.live(&["a"]);
    world.publish(&["a"], &"x".repeat(900));
    assert!(matches!(world.try_publish(&["a"], "x"), Err(Error::HubFull { .. })));
    world.drain();
    let (size, limit) = (1009, 1000);
    assert_eq!(world.try_publish(&["a"], &"x".repeat(1001)), Err(Error::EventTooLarge { size, limit }));
    assert_eq!(
        world.hub.publish(&[], draft("x")).unwrap_err().to_string().split(';').next(),
        Some("publish needs at least one topic")
    );
}

#[test]
fn a_reader_without_subscribers_holds_nothing_back() {
    let world = World::new(config());
    let other = World::of(&world.hub);
    publish(&world, 1..=10);
    assert_eq!(world.stat("backlog_bytes"), 0, "nobody reads");
    let (here, there) = (world.live(&["a"]), other.live(&["a"]));
    publish(&world, 11..=20);
    world.drain();
    assert!(world.stat("backlog_bytes") > 0, "one loop has not come yet");
    there.leave();
    assert_eq!(world.stat("backlog_bytes"), 0);
    assert_eq!(here.all(), numbers(11..=20));
    let late = other.live(&["a"]);
    publish(&world, 21..=21);
    other.drain();
    assert_eq!(late.all(), numbers(21..=21), "who comes back begins where it joins");
}

#[test]
fn a_reader_that_died_is_taken_away_with_its_subscribers() {
    let world = World::new(config());
    let dead = World::of(&world.hub);
    let stream = dead.live(&["a"]);
    let here = world.live(&["a"]);
    publish(&world, 1..=3);
    let lost = world.hub.remove_reader(&dead.reader);
    assert_eq!(lost.iter().map(|identity| identity.id).collect::<Vec<_>>(), [stream.identity.id]);
    world.drain();
    assert_eq!((world.stat("backlog_bytes"), world.stat("readers"), world.hub.count(Some("a"))), (0, 1, 1));
    assert_eq!(here.all(), numbers(1..=3));
    assert!(world.hub.remove_reader(&dead.reader).is_empty());
}

#[test]
fn a_sleeping_reader_is_woken_once_for_many_publications() {
    let world = World::new(config());
    let idle = World::of(&world.hub);
    let _stream = world.live(&["a"]);
    let before = world.rings.load(Ordering::Relaxed);
    publish(&world, 1..=50);
    assert_eq!(world.rings.load(Ordering::Relaxed), before + 1);
    world.drain();
    publish(&world, 51..=60);
    assert_eq!(world.rings.load(Ordering::Relaxed), before + 2);
    assert_eq!(idle.rings.load(Ordering::Relaxed), 0, "a reader without subscribers sleeps on");
}

#[test]
fn a_waiting_consumer_is_resumed_once_for_a_batch() {
    let world = World::new(config());
    let stream = world.live(&["a", "b"]);
    let _other = world.live(&["c"]);
    for _ in 0..10 {
        world.publish(&["a", "b"], "x");
    }
    let (_, effects) = world.turn();
    assert_eq!(effects.resume, [stream.identity.key]);
    world.publish(&["a"], "x");
    assert!(world.turn().1.resume.is_empty(), "it was woken already");
}
