//! Consumers that take nothing: which are stalled, and which only read slowly.

use sse_hub::config::Config;
use sse_hub::identity::CloseReason;
use sse_hub::subscriber::Taken;

use crate::flow::publish;
use crate::support::{MS, SECOND, STALL, Stream, World, config, request};

#[test]
fn a_client_that_takes_nothing_for_the_stall_timeout_is_ended() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    let idle = world.live(&["b"]);
    publish(&world, 1..=1);
    world.drain();
    assert!(world.pass(STALL - SECOND).is_empty());
    while idle.take() == Taken::Some {}
    let closed = world.pass(SECOND + MS);
    assert_eq!(closed.len(), 1);
    assert_eq!((closed[0].0.id, &closed[0].1), (stream.identity.id, &CloseReason::Stalled));
    assert_eq!(stream.take(), Taken::End);
    assert_eq!(world.stat("stalled"), 1);
}

#[test]
fn a_client_that_was_idle_before_it_stalls_is_ended_as_soon() {
    for heartbeat in [None, Some(STALL / 2), Some(10 * STALL)] {
        let world = World::new(Config { heartbeat, ..config() });
        let stream = world.live(&["a"]);
        for _ in 0..70 {
            world.pass(SECOND);
            stream.all();
        }
        publish(&world, 1..=1);
        world.drain();
        assert!(world.pass(STALL - MS).is_empty());
        assert_eq!(world.pass(2 * MS).len(), 1, "{heartbeat:?}");
    }
}

#[test]
fn a_subscription_nobody_takes_from_is_ended() {
    let world = World::new(config());
    let stream = world.subscribe(&request(&["a"]));
    world.drain();
    assert_eq!(world.pass(STALL + MS).len(), 1);
    assert_eq!((stream.closed(), world.hub.count(None)), (Some("stalled"), 0));
}

#[test]
fn a_client_that_takes_slowly_is_not_stalled() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    for n in 1..=20 {
        publish(&world, n..=n);
        world.drain();
        assert!(world.pass(STALL - SECOND).is_empty());
        assert_eq!(stream.take(), Taken::Some);
    }
    assert_eq!(stream.closed(), None);
}

/// A consumer that the reader asks for progress: it writes one event, and the next waits behind that.
fn behind_a_write() -> (World, Stream) {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.reader.ask_for_progress(&stream.identity);
    publish(&world, 1..=1);
    world.drain();
    assert_eq!(stream.take(), Taken::Some);
    publish(&world, 2..=2);
    (world, stream)
}

/// Between two questions the client of a long write may take as little as one byte.
#[test]
fn a_consumer_that_is_asked_is_stalled_only_when_its_client_takes_nothing() {
    let (world, stream) = behind_a_write();
    let mut unsent = 1000;
    let mut quarter = |takes: usize| {
        world.advance(STALL / 4);
        let (_, effects) = world.turn();
        for identity in &effects.progress {
            unsent -= takes;
            world.reader.report_unsent(identity, unsent, None, world.hub.clock.now());
        }
        effects.closed.len()
    };
    for _ in 0..40 {
        assert_eq!(quarter(1), 0, "it takes something");
    }
    let quiet = (1..100).find(|_| quarter(0) > 0).unwrap();
    assert!((4..=6).contains(&quiet), "ended after {quiet} quarters");
    assert_eq!((stream.closed(), world.stat("stalled")), (Some("stalled"), 1));
}

#[test]
fn heartbeats_that_wait_ask_no_more_questions() {
    let world = World::new(Config { heartbeat: Some(STALL / 32), ..config() });
    let stream = world.live(&["a"]);
    world.reader.ask_for_progress(&stream.identity);
    publish(&world, 1..=1);
    world.drain();
    assert_eq!(stream.take(), Taken::Some);
    let mut asked = 0;
    while stream.closed().is_none() {
        world.advance(STALL / 32);
        for identity in &world.turn().1.progress {
            asked += 1;
            world.reader.report_unsent(identity, 1000, None, world.hub.clock.now());
        }
    }
    assert!((4..=6).contains(&asked), "asked {asked} times before its end");
}

/// What its write has not passed on waits for the client, though nothing waits at the hub.
#[test]
fn a_consumer_that_is_asked_is_stalled_with_its_last_write() {
    for heartbeat in [None, Some(STALL * 100)] {
        let world = World::new(Config { heartbeat, ..config() });
        let stream = world.live(&["a"]);
        world.reader.ask_for_progress(&stream.identity);
        publish(&world, 1..=1);
        world.drain();
        assert_eq!(stream.take(), Taken::Some);
        let quarter = |unsent: usize| {
            world.advance(STALL / 4);
            let (_, effects) = world.turn();
            for identity in &effects.progress {
                world.reader.report_unsent(identity, unsent, None, world.hub.clock.now());
            }
            effects.closed.len()
        };
        for left in (100..140).rev() {
            assert_eq!(quarter(left), 0, "it takes something");
        }
        for _ in 0..10 {
            assert_eq!(quarter(0), 0, "it has everything, and its application is slow");
        }
        publish(&world, 2..=2);
        world.drain();
        assert_eq!((quarter(0), quarter(0), quarter(0)), (0, 0, 0), "it waits for less than the timeout");
        assert_eq!(stream.all(), ["2 #2"]);
        publish(&world, 3..=3);
        world.drain();
        assert_eq!(stream.take(), Taken::Some);
        let quiet = (1..100).find(|_| quarter(50) > 0).unwrap();
        assert!((4..=6).contains(&quiet), "ended after {quiet} quarters");
        assert_eq!(stream.closed(), Some("stalled"));
    }
}

/// It may owe a heartbeat, and events may wait for its application.
#[test]
fn a_client_that_has_everything_is_not_stalled_while_its_application_is_slow() {
    let world = World::new(Config { heartbeat: Some(STALL / 2), ..config() });
    let stream = world.live(&["a"]);
    world.reader.ask_for_progress(&stream.identity);
    publish(&world, 1..=1);
    world.drain();
    assert_eq!(stream.take(), Taken::Some);
    let quarters = |many: usize| {
        for _ in 0..many {
            world.advance(STALL / 4);
            let (_, effects) = world.turn();
            assert!(effects.closed.is_empty());
            for identity in &effects.progress {
                world.reader.report_unsent(identity, 0, None, world.hub.clock.now());
            }
        }
    };
    quarters(20);
    publish(&world, 2..=2);
    world.drain();
    quarters(20);
    assert_eq!(stream.all(), ["2 #2"]);
}

/// The kernel takes more and more of what its client does not.
#[test]
fn a_parked_consumer_is_stalled_when_its_client_acknowledges_nothing() {
    for heartbeat in [None, Some(SECOND), Some(STALL * 100)] {
        let world = World::new(Config { heartbeat, ..config() });
        let stream = world.live(&["a"]);
        world.reader.ask_for_progress(&stream.identity);
        let (mut written, mut asked) = (100, 0);
        let mut quarter = |writes: usize, acknowledges: u64, acknowledged: &mut u64| {
            written += writes;
            if writes > 0 {
                world.publish(&["a"], "x");
            }
            let mut closed = 0;
            for _ in 0..8 {
                world.advance(STALL / 32);
                let (_, effects) = world.turn();
                stream.all();
                for identity in &effects.progress {
                    asked += 1;
                    *acknowledged += acknowledges.min(written as u64 - *acknowledged);
                    let unsent = written - usize::try_from(*acknowledged).unwrap();
                    let now = world.hub.clock.now();
                    world.reader.report_unsent(identity, unsent, Some(*acknowledged), now);
                }
                closed += effects.closed.len();
            }
            (closed, std::mem::take(&mut asked))
        };
        let mut acknowledged = 1;
        for _ in 0..40 {
            assert_eq!(quarter(50, 1, &mut acknowledged).0, 0, "it takes something");
        }
        quarter(0, u64::MAX, &mut acknowledged);
        quarter(0, u64::MAX, &mut acknowledged);
        if heartbeat != Some(SECOND) {
            for _ in 0..10 {
                assert_eq!(quarter(0, 0, &mut acknowledged), (0, 0), "it has everything, and is not asked");
            }
        }
        let quiet = (1..100).find(|_| quarter(50, 0, &mut acknowledged).0 > 0).unwrap();
        assert!((4..=7).contains(&quiet), "ended after {quiet} quarters");
        assert_eq!(stream.closed(), Some("stalled"));
    }
}

/// It has everything when it is asked, and its server gets the write after that.
#[test]
fn a_consumer_that_parks_after_a_late_write_is_asked_about_it() {
    let world = World::new(Config { heartbeat: None, ..config() });
    let stream = world.live(&["a"]);
    world.reader.ask_for_progress(&stream.identity);
    let mut asked = 0;
    let mut quarter = |unsent: usize| {
        world.advance(STALL / 4);
        let (_, effects) = world.turn();
        asked += effects.progress.len();
        for identity in &effects.progress {
            world.reader.report_unsent(identity, unsent, Some(100), world.hub.clock.now());
        }
        (effects.closed.len(), asked)
    };
    publish(&world, 1..=1);
    world.drain();
    assert_eq!(stream.take(), Taken::Some);
    while quarter(0).1 < 2 {} // middleware holds the write back
    assert_eq!(stream.take(), Taken::Nothing);
    let ended = (1..10).find(|_| quarter(50).0 > 0);
    assert!(ended.is_some_and(|quarters| (4..=7).contains(&quarters)), "{ended:?}");
}

/// Without answers, what counts is for how long something waits.
#[test]
fn a_consumer_without_an_answer_is_stalled_after_the_timeout() {
    for idle in [0, 10] {
        let world = World::new(Config { heartbeat: None, ..config() });
        let stream = world.live(&["a"]);
        world.reader.ask_for_progress(&stream.identity);
        publish(&world, 1..=1);
        world.drain();
        assert_eq!(stream.take(), Taken::Some);
        let quarter = || {
            world.advance(STALL / 4);
            world.turn().1.closed.len()
        };
        assert!((0..idle).all(|_| quarter() == 0), "its application is slow");
        publish(&world, 2..=2);
        world.drain();
        let ended = (1..10).find(|_| quarter() > 0);
        assert!(ended.is_some_and(|quarters| (3..=6).contains(&quarters)), "{ended:?}");
    }
}

#[test]
fn a_consumer_from_which_nothing_is_kept_is_not_stalled() {
    let mut config = config();
    config.heartbeat = None;
    let world = World::new(config);
    let stream = world.live(&["a"]);
    publish(&world, 1..=1);
    world.drain();
    assert_eq!(stream.once(), ["1 #1"]);
    assert!(world.pass(STALL * 3).is_empty(), "it works on what it took");
    publish(&world, 2..=2);
    world.drain();
    assert_eq!(stream.all(), ["2 #2"]);
}
