//! Consumers that write at once, as a reactor does: one visit takes everything and waits for what comes next.

use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::subscriber::Taken;

use crate::support::{MS, STALL, Stream, World, config, draft, request};

/// One visit, and whether the stream is to be resumed for what is published after it.
fn visit(world: &World, stream: &Stream) -> (Taken, usize, bool) {
    let (taken, seen) = stream.poll_last();
    world.publish(&["t"], "next");
    let woken = world.turn().1.resume.contains(&stream.identity.key);
    (taken, seen.len(), woken)
}

#[test]
fn the_visit_that_takes_everything_waits_for_what_comes_next() {
    let world = World::new(config());
    let stream = world.subscribe(&request(&["t"]));
    world.drain();
    assert_eq!(visit(&world, &stream), (Taken::Last, 1, true));
    assert_eq!(visit(&world, &stream), (Taken::Last, 1, true));
    assert_eq!(stream.poll_last().0, Taken::Last);
    assert_eq!(stream.poll_last().0, Taken::Nothing);
}

#[test]
fn one_that_could_not_write_everything_is_not_resumed_and_has_its_limits() {
    let world = World::new(config());
    let stream = world.subscribe(&request(&["t"]));
    world.drain();
    assert_eq!(stream.poll_last().0, Taken::Last);
    stream.write_blocked();
    world.stick("u");
    for _ in 0..4 {
        world.publish(&["t"], "waits");
        assert!(world.turn().1.resume.is_empty());
    }
    world.publish(&["t"], "too much");
    let closed = world.drain();
    assert_eq!(closed[0].1, CloseReason::Overflow);

    let other = world.subscribe(&request(&["t"]));
    world.drain();
    assert_eq!(other.poll_last().0, Taken::Last);
    other.write_blocked();
    world.publish(&["t"], "waits");
    assert!(world.pass(STALL - MS).is_empty());
    assert_eq!(world.pass(STALL / 2)[0].1, CloseReason::Stalled);
}

#[test]
fn a_replay_is_visited_until_its_last_piece() {
    let mut many = config();
    many.retention.count = 2000;
    let world = World::new(many);
    (0..1200).for_each(|n| _ = world.publish(&["t"], &n.to_string()));
    let stream = world.subscribe(&Request { past: Some(Past::All), ..request(&["t"]) });
    world.drain();
    let mut pieces = Vec::new();
    loop {
        let (taken, seen) = stream.poll_last();
        pieces.push(seen.len());
        if taken != Taken::Some {
            assert_eq!(taken, Taken::Last);
            break;
        }
    }
    assert_eq!((pieces.len(), pieces.iter().sum::<usize>()), (3, 1201));
}

#[test]
fn one_that_waits_for_its_snapshot_is_resumed_for_it() {
    let world = World::new(config());
    let stream = world.subscribe(&Request { initial: true, ..request(&["t"]) });
    world.drain();
    assert_eq!(stream.poll_last().0, Taken::Last, "the opening");
    world.publish(&["t"], "newer");
    world.drain();
    assert_eq!(stream.poll_last().0, Taken::Nothing);
    assert!(stream.initial(&["snapshot"]), "it is resumed");
    let (taken, seen) = stream.poll_last();
    assert_eq!((taken, seen.len()), (Taken::Last, 2));
}

#[test]
fn one_that_is_closed_is_visited_once_more() {
    let world = World::new(config());
    let stream = world.subscribe(&request(&["t"]));
    assert_eq!(stream.close(CloseReason::CLOSED), Some(false), "it comes by itself");
    assert_eq!(stream.poll_last().0, Taken::Some);
    assert_eq!(stream.poll_last().0, Taken::End);
    let parked = world.subscribe(&request(&["t"]));
    assert_eq!(parked.poll_last().0, Taken::Last);
    assert_eq!(parked.close(CloseReason::CLOSED), Some(true), "it is to be resumed");
    assert_eq!(world.hub.send(Some(parked.identity.id), draft("late")), Ok(false));
}
