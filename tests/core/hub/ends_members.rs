//! Subscribers of topics that have ended: joining, leaving, sending, and names that are free again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sse_hub::broker::letter::{Letter, Step, To};
use sse_hub::ending::Ending;
use sse_hub::error::Error;
use sse_hub::hub::Request;
use sse_hub::ids::StreamId;
use sse_hub::topic::Topic;

use crate::ends::{END, KEEP, read};
use crate::stream::{later, undecided};
use crate::support::{World, config, draft, request, topics};

#[test]
fn nothing_new_goes_to_a_stream_whose_topics_have_ended() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    let id = stream.identity.id;
    assert_eq!(world.hub.send(Some(id), draft("before")), Ok(true));
    world.end("a");
    for _ in 0..2 {
        assert_eq!(world.hub.join(id, &topics(&["b"])), Ok(false));
        assert_eq!(world.hub.send(Some(id), draft("behind")), Ok(false));
        world.publish(&["b"], "behind");
        assert_eq!(world.hub.count(Some("b")), 0);
        // The second time, the name of its topic is free.
        world.advance(KEEP);
    }
    world.drain();
    assert_eq!(read(&world, &stream), ["before", &format!("{END} #1")]);
}

#[test]
fn a_stream_without_topics_or_with_one_that_goes_on_joins_others() {
    let world = World::new(config());
    let none = world.live(&[]);
    let some = world.live(&["a", "b"]);
    world.end("a");
    world.drain();
    for stream in [&none, &some] {
        assert_eq!(world.hub.join(stream.identity.id, &topics(&["c"])), Ok(true));
    }
    world.publish(&["c"], "new");
    world.drain();
    assert_eq!((none.all(), some.all()), (vec!["new #2".into()], vec!["new #2".into()]));
}

/// A client that resumed from an id before events that it has would receive these again.
#[test]
fn the_end_of_who_leaves_its_last_topic_has_no_id_before_what_it_has() {
    let world = World::new(config());
    let early = world.live(&["a", "b"]);
    world.end("a");
    let late = world.live(&["a", "b"]);
    world.publish(&["b"], "x");
    world.drain();
    for stream in [&early, &late] {
        assert_eq!(stream.all(), ["x #2"]);
        assert!(world.hub.leave(stream.identity.id, &topics(&["b"])));
        assert_eq!(world.hub.join(stream.identity.id, &topics(&["b"])), Ok(false), "its stream ends");
        world.drain();
        assert_eq!(read(&world, stream), [END], "whenever it came");
    }
    // A client that was cut before that end has the same id. It comes for the end once more.
    assert!(!world.has_everything(&["a"], &world.id(2)));
    let back = world.subscribe(&Request { last_event_id: Some(world.id(2)), ..request(&["a"]) });
    world.drain();
    assert_eq!(read(&world, &back), ["stream-open #0", &format!("{END} #1")]);
    assert!(world.has_everything(&["a"], &world.id(1)));
}

#[test]
fn a_stream_is_not_in_the_next_topic_of_the_same_name() {
    let world = World::new(config());
    let stream = world.live(&["a", "b"]);
    world.end("a");
    world.advance(KEEP);
    world.publish(&["a"], "of the next one");
    assert_eq!(world.hub.topics_of(&stream.identity), [std::sync::Arc::<str>::from("b")]);
    assert_eq!(world.hub.join(stream.identity.id, &topics(&["a"])), Ok(true));
    world.publish(&["a"], "joined");
    world.drain();
    assert_eq!(stream.all(), ["joined #3"]);
}

/// It has yet to join the topic of this name, whichever that is when its start is resolved.
#[test]
fn who_waits_for_the_broker_joins_a_topic_whose_name_was_free_in_between() {
    let (stream, mut worker, client) = undecided();
    later(&worker, &client);
    worker.begin(&stream, 10);
    let topic = Topic::new("t").unwrap();
    let id = |ms| StreamId { ms, seq: 0 };
    let step = Step::End { keep: Duration::ZERO, ending: Ending::ENDED };
    worker.world.hub.deliver(vec![(id(90_000), Letter::Life { topic: topic.clone(), step })]);
    worker.world.stat("topics");
    worker.answer_all(&stream);
    let again = Letter::Event { to: To::Topics([topic].into()), draft: draft("again") };
    worker.world.hub.deliver(vec![(id(90_001), again)]);
    worker.world.drain();
    assert!(client.all().last().unwrap().starts_with("again"));
}

#[test]
fn a_join_wakes_its_reader_and_too_many_that_wait_are_refused() {
    let mut config = config();
    config.backlog_bytes = 1;
    let world = World::new(config);
    let stream = world.live(&["a"]);
    let id = stream.identity.id;
    let rings = world.rings.load(Ordering::Relaxed);
    let toggle = || {
        let joined = world.hub.join(id, &topics(&["b"]));
        joined.map(|_| world.hub.leave(id, &topics(&["b"])))
    };
    let refused = (0..100_000).find_map(|_| toggle().err());
    assert!(matches!(refused, Some(Error::ReaderBehind { .. })), "{refused:?}");
    assert_eq!(world.rings.load(Ordering::Relaxed), rings + 1);
    world.drain();
    for _ in 0..100_000 {
        assert!(world.hub.leave(id, &topics(&["b"])), "leaves nothing, and appends nothing");
    }
    assert_eq!(world.hub.join(id, &topics(&["b"])), Ok(true));
    world.publish(&["b"], "x");
    world.drain();
    assert_eq!(stream.all(), ["x #1"]);
}
