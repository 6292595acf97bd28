//! Streams with a rate: what is held, for how long, and what is not.

use std::time::Duration;

use proptest::prelude::*;
use sse_hub::config::Config;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::queue::Capacity;
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;

use crate::ends::{END, read};
use crate::support::{MS, SECOND, Stream, World, cases, config, draft, request};

const INTERVAL: Duration = Duration::from_millis(200);

fn rated(names: &[&str]) -> Request {
    Request { interval: Some(INTERVAL), ..request(names) }
}

/// A live stream that was given its first event.
fn begun(world: &World) -> Stream {
    let stream = world.live_with(&rated(&["a"]));
    world.publish(&["a"], "first");
    assert_eq!(world.turn().1.resume.len(), 1, "at once");
    assert_eq!(stream.all().len(), 1);
    stream
}

/// Publish, and see whether that resumes anybody.
fn wakes(world: &World, data: &str) -> bool {
    world.publish(&["a"], data);
    !world.turn().1.resume.is_empty()
}

#[test]
fn the_first_comes_at_once_and_the_next_ones_together() {
    let world = World::new(config());
    let stream = begun(&world);
    for data in ["2", "3"] {
        assert!(!wakes(&world, data), "a held client is not resumed");
        world.advance(50 * MS);
    }
    assert!(world.turn().1.resume.is_empty());
    assert_eq!(stream.all(), [""; 0], "and receives nothing when it comes by itself");
    world.advance(100 * MS);
    let (drained, effects) = world.turn();
    assert_eq!((effects.resume.len(), drained.next.release), (1, None));
    assert_eq!(stream.once(), ["2 #2", "3 #3"]);
    assert_eq!(stream.take(), Taken::Nothing);
    assert!(!wakes(&world, "4"), "an interval begins with each write");
    world.pass(SECOND);
    assert_eq!(stream.all(), ["4 #4"]);
    assert!(wakes(&world, "5"), "at once after silence");
}

#[test]
fn the_time_of_the_release_is_known_to_the_readers_timer() {
    let world = World::new(config());
    let stream = begun(&world);
    world.publish(&["a"], "2");
    let (drained, _) = world.turn();
    assert_eq!(drained.next.soonest(), Some(INTERVAL));
    assert_eq!(world.hub.next_due(), Some(INTERVAL));
    world.advance(INTERVAL);
    // Without a drain: only a timer.
    let mut effects = sse_hub::reader::Effects::default();
    assert_eq!(world.hub.tick(&world.reader, &mut effects).release, None);
    assert_eq!(effects.resume.len(), 1);
    assert_eq!(stream.once(), ["2 #2"]);
}

#[test]
fn a_consumer_that_takes_them_late_is_given_them_all_the_same() {
    let world = World::new(config());
    let stream = begun(&world);
    world.publish(&["a"], "2");
    world.pass(INTERVAL);
    world.advance(90 * MS);
    assert_eq!(stream.once(), ["2 #2"]);
    // Its next write is due by the time at which it was resumed.
    assert_eq!(stream.take(), Taken::Nothing);
    world.publish(&["a"], "3");
    assert_eq!(world.turn().0.next.release, Some(2 * INTERVAL));
}

#[test]
fn events_that_come_during_a_write_are_held_when_it_is_done() {
    let world = World::new(config());
    let stream = world.live_with(&rated(&["a"]));
    world.publish(&["a"], "1");
    world.drain();
    assert_eq!(stream.once(), ["1 #1"]);
    world.advance(20 * MS);
    world.publish(&["a"], "2");
    world.drain();
    let rings = world.rings.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(stream.take(), Taken::Nothing, "the write is done");
    assert_eq!(world.rings.load(std::sync::atomic::Ordering::Relaxed), rings + 1, "for the timer");
    world.pass(200 * MS);
    assert_eq!(stream.all(), ["2 #2"]);
    // And those that come during a write that lasts longer than an interval go out at once.
    world.publish(&["a"], "3");
    world.pass(INTERVAL);
    assert_eq!(stream.once(), ["3 #3"]);
    world.publish(&["a"], "4");
    world.pass(2 * INTERVAL);
    assert_eq!(stream.once(), ["4 #4"]);
}

#[test]
fn a_write_that_blocks_and_a_rate_lose_nothing() {
    let world = World::new(config());
    let stream = begun(&world);
    world.publish(&["a"], "2");
    world.pass(INTERVAL);
    assert_eq!(stream.poll_last().0, Taken::Last);
    stream.write_blocked();
    world.publish(&["a"], "3");
    world.drain();
    assert_eq!(stream.poll_last().0, Taken::Nothing, "held");
    world.pass(2 * INTERVAL);
    assert_eq!(stream.all(), ["3 #3"]);
}

#[test]
fn what_is_sent_to_the_client_goes_out_at_once_behind_what_came_before() {
    let world = World::new(config());
    let stream = begun(&world);
    assert!(!wakes(&world, "2"));
    assert!(world.hub.send(Some(stream.identity.id), draft("mine")).unwrap());
    assert_eq!(world.turn().1.resume.len(), 1);
    assert_eq!(stream.all(), ["2 #2", "mine"]);
    assert!(!wakes(&world, "3"), "that was a write");
    world.pass(2 * INTERVAL);
    assert_eq!(stream.all(), ["3 #3"]);
    world.pass(INTERVAL);
    world.hub.send(Some(stream.identity.id), draft("mine")).unwrap();
    world.drain();
    assert_eq!(stream.all(), ["mine"]);
    assert!(wakes(&world, "4"), "what is not held counts as no write");
}

#[test]
fn a_heartbeat_is_not_held_and_skips_nothing() {
    let world = World::new(config());
    let stream = world.live_with(&Request { interval: Some(100 * SECOND), ..request(&["a"]) });
    world.publish(&["a"], "1");
    world.drain();
    assert_eq!(stream.all(), ["1 #1"]);
    world.publish(&["a"], "2");
    world.publish(&["b"], "elsewhere");
    let mut seen = Vec::new();
    for _ in 0..9 {
        world.pass(10 * SECOND);
        seen.extend(stream.all());
    }
    assert!(
        seen.len() >= 3 && seen.iter().all(|beat| beat == ":"),
        "an id would be one behind the held event: {seen:?}"
    );
    world.pass(10 * SECOND);
    assert!(stream.all().contains(&"2 #2".to_owned()));
}

#[test]
fn the_end_of_a_topic_is_not_held() {
    let world = World::new(config());
    let stream = begun(&world);
    assert!(!wakes(&world, "2"));
    world.end("a");
    assert_eq!(world.turn().1.resume.len(), 1);
    assert_eq!(read(&world, &stream), ["2 #2", &format!("{END} #3")]);
}

#[test]
fn a_close_is_not_held() {
    let world = World::new(config());
    let stream = begun(&world);
    assert!(!wakes(&world, "2"));
    assert_eq!(stream.close(CloseReason::CLOSED), Some(true));
    assert_eq!(stream.poll().1.len(), 1);
    assert_eq!(stream.take(), Taken::End);
}

#[test]
fn what_fills_the_queue_goes_out_early() {
    let world = World::new(Config { capacity: Capacity { events: 4, bytes: 1 << 20 }, ..config() });
    let stream = begun(&world);
    for data in ["2", "3", "4"] {
        assert!(!wakes(&world, data));
    }
    assert!(wakes(&world, "5"));
    assert_eq!(stream.all(), ["2 #2", "3 #3", "4 #4", "5 #5"]);
    assert_eq!((world.stat("dropped"), world.stat("overflowed")), (0, 0));
}

#[test]
fn a_replay_is_not_held() {
    let world = World::new(config());
    for _ in 0..100 {
        world.publish(&["a"], "past");
    }
    let id = world.id(0);
    let stream = world.subscribe(&Request { last_event_id: Some(id), ..rated(&["a"]) });
    world.publish(&["a"], "live");
    world.drain();
    assert_eq!(stream.all().len(), 102, "stream-open, and all of them");
}

#[test]
fn a_hub_has_a_rate_for_all_and_a_stream_its_own() {
    let world = World::new(Config { interval: Some(INTERVAL), ..config() });
    world.hub.begin_whole(&Topic::new("a").unwrap()).unwrap();
    let usual = world.live(&["a"]);
    let own = world.live_with(&Request { interval: Some(10 * MS), ..request(&["a"]) });
    let whole = world.live_with(&Request { follows_run: true, ..request(&["a"]) });
    world.publish(&["a"], "1");
    world.drain();
    for stream in [&usual, &own, &whole] {
        assert_eq!(stream.all(), ["1 #2"]);
    }
    world.publish(&["a"], "2");
    world.drain();
    assert_eq!(
        [usual.all().len(), own.all().len(), whole.all().len()],
        [0, 0, 1],
        "a run is written at once"
    );
    world.pass(20 * MS);
    assert_eq!([usual.all().len(), own.all().len()], [0, 1]);
    world.pass(INTERVAL);
    assert_eq!(usual.all(), ["2 #3"]);
}

#[test]
fn a_subscriber_that_left_is_forgotten() {
    let world = World::new(config());
    let stream = begun(&world);
    assert!(!wakes(&world, "2"));
    assert!(stream.leave());
    let other = world.live(&["a"]);
    assert_eq!(other.identity.key, stream.identity.key, "the place of the other");
    world.pass(SECOND);
    assert_eq!((other.all(), world.turn().0.next.release), (vec![], None));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    Send,
    Turn,
    Visit,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Publish),
        1 => Just(Step::Send),
        4 => Just(Step::Turn),
        4 => Just(Step::Visit),
        4 => (1..90_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Whatever happens: every event comes, once and in order; and writes of what a rate holds are an interval apart.
    #[test]
    fn nothing_is_lost_and_no_write_comes_too_soon(steps in prop::collection::vec(step(), 1..200)) {
        let world = World::new(Config { capacity: Capacity { events: 1000, bytes: 1 << 20 }, ..config() });
        let stream = world.live_with(&rated(&["a"]));
        let (mut published, mut seen) = (Vec::new(), Vec::new());
        let mut writes = Vec::new();
        let mut sends = 0_u32;
        let mut visit = |sends: u32| {
            let (taken, events) = stream.poll();
            let events: Vec<_> = events.into_iter().map(|event| event.data).filter(|data| !data.is_empty()).collect();
            if events.iter().any(|data| data != "mine") {
                writes.push((world.hub.clock.now(), sends));
            }
            seen.extend(events);
            taken
        };
        for step in steps {
            match step {
                Step::Publish => {
                    let data = published.len().to_string();
                    world.publish(&["a"], &data);
                    published.push(data);
                }
                Step::Send => {
                    world.hub.send(Some(stream.identity.id), draft("mine")).unwrap();
                    published.push("mine".into());
                    sends += 1;
                }
                Step::Turn => drop(world.turn()),
                Step::Visit => drop(visit(sends)),
                Step::Wait(ms) => world.advance(Duration::from_millis(ms)),
            }
        }
        for _ in 0..4 {
            world.pass(INTERVAL);
            while visit(sends) == Taken::Some {}
        }
        prop_assert_eq!(&seen, &published);
        // A visit may come late, by up to the time since it was resumed; so look at the number in any span.
        for (from, &(begin, before)) in writes.iter().enumerate() {
            for (n, &(end, after)) in writes[from..].iter().enumerate() {
                let most = (end - begin).as_millis() / INTERVAL.as_millis() + 2 + u128::from(after - before) * 2;
                prop_assert!((n as u128) <= most, "{} writes from {:?} to {:?}", n, begin, end);
            }
        }
    }
}
