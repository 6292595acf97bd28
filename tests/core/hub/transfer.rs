//! Subscribers that move from one reader to another before their stream begins.

use std::sync::Arc;

use sse_hub::change::Who;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::ids::GroupId;
use sse_hub::queue::OverflowPolicy;
use sse_hub::reader::Effects;
use sse_hub::subscriber::Taken;

use crate::support::{HEARTBEAT, MS, Stream, World, config, draft, request, topics};

/// A hub with two readers: a loop's, and one that subscribers move to.
fn two() -> (World, World) {
    let one = World::new(config());
    let other = World::of(&one.hub);
    (one, other)
}

fn kicked() -> CloseReason {
    CloseReason::Kicked("out".into())
}

impl World {
    fn give(&self, to: &World, stream: &Stream) -> Option<Stream> {
        let identity = self.hub.transfer(&self.reader, &to.reader, &stream.identity, GroupId(7))?;
        assert!(Arc::ptr_eq(stream.identity.current(), &identity));
        Some(to.stream_of(identity))
    }

    fn send(&self, stream: &Stream, data: &str) {
        assert_eq!(self.hub.send(Some(stream.identity.id), draft(data)), Ok(true));
    }
}

#[test]
fn what_is_queued_what_is_pending_and_what_comes_later_arrive_once_and_in_order() {
    let (one, other) = two();
    let neighbour = other.live(&["t"]);
    other.publish(&["t"], "before");
    let stream = one.subscribe(&request(&["t"]));
    one.publish(&["t"], "queued");
    one.drain();
    one.publish(&["t", "u"], "pending");
    one.publish(&["u"], "not its topic");
    one.hub.broadcast(draft("to all")).unwrap();
    one.send(&stream, "to one");
    let moved = one.give(&other, &stream).unwrap();
    one.publish(&["t"], "later");
    one.send(&stream, "later to one");
    one.drain();
    other.drain();
    let want =
        ["stream-open #1", "queued #2", "pending #3", "to all #5", "to one", "later #6", "later to one"];
    assert_eq!(moved.all(), want);
    one.publish(&["t"], "live");
    one.drain();
    other.drain();
    assert_eq!(moved.all(), ["live #7"]);
    assert_eq!(stream.take(), Taken::End, "it is not where it was");
    assert_eq!(neighbour.all(), ["before #1", "queued #2", "pending #3", "to all #5", "later #6", "live #7"]);
}

#[test]
fn it_may_move_before_its_joining_was_dispatched() {
    let (one, other) = two();
    one.live(&["t"]);
    one.publish(&["t"], "before");
    let stream = one.subscribe(&request(&["t"]));
    one.publish(&["t"], "after");
    let moved = one.give(&other, &stream).unwrap();
    one.drain();
    one.publish(&["t"], "later");
    one.drain();
    other.drain();
    assert_eq!(moved.all(), ["stream-open #1", "after #2", "later #3"]);
}

#[test]
fn topics_that_were_joined_and_left_are_so_afterwards() {
    let (one, other) = two();
    let stream = one.subscribe(&request(&["a", "b"]));
    one.drain();
    one.hub.join(stream.identity.id, &topics(&["c"])).unwrap();
    one.publish(&["c"], "1");
    one.hub.leave(stream.identity.id, &topics(&["a"]));
    one.publish(&["a"], "2");
    let moved = one.give(&other, &stream).unwrap();
    for (topic, data) in [("a", "3"), ("b", "4"), ("c", "5")] {
        one.publish(&[topic], data);
    }
    one.hub.join(stream.identity.id, &topics(&["a"])).unwrap();
    one.publish(&["a"], "6");
    other.drain();
    assert_eq!(moved.all(), ["stream-open #0", "1 #1", "4 #4", "5 #5", "6 #6"]);
    let names: Vec<_> = one.hub.topics_of(&moved.identity).iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_kick_that_is_pending_ends_it_after_what_came_before() {
    for who in [None, Some(Who::User("ann".into())), Some(Who::All)] {
        let (one, other) = two();
        // It was meant for the subscribers of that time.
        one.live(&["t"]);
        one.hub.disconnect(Who::All, kicked());
        let stream = one.subscribe(&Request { user: Some("ann".into()), ..request(&["t"]) });
        one.publish(&["t"], "before");
        one.hub.disconnect(who.unwrap_or(Who::Id(stream.identity.id)), kicked());
        one.publish(&["t"], "after");
        let moved = one.give(&other, &stream).unwrap();
        one.drain();
        let closed = other.drain();
        assert_eq!(closed.len(), 1, "it is told of once, where it is now");
        assert_eq!(closed[0].1, kicked());
        assert_eq!(moved.all(), ["stream-open #0", "before #1"]);
        assert_eq!((moved.take(), moved.closed()), (Taken::End, Some("out")));
        assert_eq!(one.hub.count(None), 0);
    }
}

#[test]
fn one_that_was_closed_is_moved_with_what_is_left() {
    let (one, other) = two();
    let stream = one.subscribe(&request(&["t"]));
    one.publish(&["t"], "queued");
    one.drain();
    assert!(stream.close(kicked()).is_some());
    let moved = one.give(&other, &stream).unwrap();
    one.publish(&["t"], "too late");
    assert!(other.drain().is_empty(), "it was told of before");
    assert_eq!(moved.all(), ["stream-open #0", "queued #1"]);
    assert_eq!((moved.take(), moved.closed()), (Taken::End, Some("out")));
    assert!(!moved.leave());
    assert_eq!(one.stat("disconnected"), 1);
}

#[test]
fn a_replay_goes_with_it() {
    let (one, other) = two();
    for n in 1..=3 {
        one.publish(&["t"], &n.to_string());
    }
    let stream = one.subscribe(&Request { last_event_id: Some(one.id(1)), ..request(&["t"]) });
    one.publish(&["t"], "4");
    let moved = one.give(&other, &stream).unwrap();
    assert_eq!(moved.recovered(), Some(true));
    one.publish(&["t"], "5");
    other.drain();
    assert_eq!(moved.all(), ["stream-open #1", "2 #2", "3 #3", "4 #4", "5 #5"]);
}

#[test]
fn nothing_moves_once_something_was_taken() {
    let (one, other) = two();
    let stream = one.subscribe(&request(&["t"]));
    assert_eq!(stream.take(), Taken::Some);
    assert!(one.give(&other, &stream).is_none());
    one.publish(&["t"], "1");
    one.drain();
    assert_eq!(stream.all(), ["1 #1"]);
    let gone = one.subscribe(&request(&["t"]));
    gone.leave();
    assert!(one.give(&other, &gone).is_none());
    let third = one.subscribe(&request(&["t"]));
    assert!(one.give(&one, &third).is_none(), "to where it is");
}

#[test]
fn the_reader_it_left_holds_nothing_back_and_keeps_nothing() {
    let (one, other) = two();
    let streams: Vec<_> = (0..100).map(|_| one.subscribe(&request(&["t"]))).collect();
    one.drain();
    let moved: Vec<_> = streams.iter().map(|stream| one.give(&other, stream).unwrap()).collect();
    one.publish(&["t"], "1");
    other.drain();
    assert_eq!(one.stat("backlog_bytes"), 0, "nobody reads there");
    assert_eq!(one.reader.unfinished(), 0);
    assert!(one.reader.next_deadline().is_none_or(|_| one.stat("subscribers") == 100));
    for stream in &moved {
        assert_eq!(stream.all(), ["stream-open #0", "1 #1"]);
    }
    assert_eq!(one.hub.disconnect(Who::Group(GroupId(7)), kicked()), 100);
    assert_eq!(other.drain().len(), 100);
    assert_eq!((one.stat("connected"), one.stat("disconnected"), one.hub.count(None)), (100, 100, 0));
}

#[test]
fn the_limits_of_a_slow_client_begin_where_it_arrives() {
    for overflow in [OverflowPolicy::Disconnect, OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
        let (one, other) = two();
        other.live(&["t"]);
        let stream = one.subscribe(&Request { overflow: Some(overflow), ..request(&["t"]) });
        // The loop had many turns, but what the hub has yet to offer waits behind no write.
        one.drain();
        one.stick("u");
        (0..10).for_each(|n| _ = one.publish(&["t"], &n.to_string()));
        let moved = one.give(&other, &stream).unwrap();
        other.drain();
        assert_eq!(moved.all().len(), 11);
        assert_eq!(moved.closed(), None);
    }
}

#[test]
fn heartbeats_and_the_age_limit_go_on() {
    let (one, other) = two();
    let stream = one.subscribe(&Request { max_age: Some(HEARTBEAT * 3), ..request(&["t"]) });
    one.drain();
    one.advance(HEARTBEAT / 2);
    let moved = one.give(&other, &stream).unwrap();
    other.drain();
    assert_eq!(moved.all(), ["stream-open #0"]);
    other.pass(HEARTBEAT + MS);
    assert_eq!(moved.all(), [":"]);
    let closed = other.pass(HEARTBEAT * 2);
    assert_eq!(closed[0].1, CloseReason::MaxAge);
    let mut effects = Effects::default();
    one.hub.tick(&one.reader, &mut effects);
    assert!(effects.closed.is_empty() && effects.resume.is_empty(), "its old deadline finds nobody");
}
