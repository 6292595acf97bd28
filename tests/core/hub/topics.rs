//! Joining and leaving topics, sending to one, retention by family, and topics that are no longer needed.

use sse_hub::error::Error;
use sse_hub::history::{Past, Retention};
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::subscriber::Taken;
use sse_hub::topic::{Topic, TopicPattern};

use crate::support::{MS, SECOND, Stream, World, config, draft, request, topics};

#[test]
fn topics_are_joined_and_left_exactly_at_their_place() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    let id = stream.identity.id;
    world.publish(&["b"], "1");
    assert_eq!(world.hub.join(id, &topics(&["b", "a"])), Ok(true));
    world.publish(&["a", "b"], "2");
    world.publish(&["b"], "3");
    assert!(world.hub.leave(id, &topics(&["b", "never heard of"])));
    world.publish(&["b"], "4");
    assert_eq!(world.hub.join(id, &topics(&["b"])), Ok(true));
    world.publish(&["b"], "5");
    assert!(world.hub.leave(id, &topics(&["a", "b"])));
    world.publish(&["a", "b"], "6");
    world.drain();
    assert_eq!(stream.all(), ["2 #2", "3 #3", "5 #5"], "all in one turn, each at its place");
    assert!(world.hub.topics_of(&stream.identity).is_empty());
    world.hub.broadcast(draft("all")).unwrap();
    assert_eq!(world.hub.send(Some(id), draft("one")), Ok(true));
    world.drain();
    assert_eq!(stream.all(), ["all #7", "one"]);
    stream.leave();
    assert_eq!(world.hub.join(id, &topics(&["b"])), Ok(false));
    assert!(!world.hub.leave(id, &topics(&["b"])));
}

#[test]
fn a_client_that_joins_a_topic_twice_gets_its_events_once_and_leaves_it_once() {
    let world = World::new(config());
    let stream = world.live(&["a", "a"]);
    world.hub.join(stream.identity.id, &topics(&["a", "a"])).unwrap();
    assert_eq!(world.hub.count(Some("a")), 1);
    world.publish(&["a"], "x");
    world.drain();
    assert_eq!(stream.all(), ["x #1"]);
    world.hub.leave(stream.identity.id, &topics(&["a", "a"]));
    assert_eq!(world.hub.count(Some("a")), 0);
    world.publish(&["a"], "y");
    world.drain();
    assert_eq!(stream.take(), Taken::Nothing);
}

#[test]
fn many_come_and_go_and_each_gets_what_its_topics_have() {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let world = World::new(config());
    // Each with the topics it is in, as bits.
    let mut there: Vec<_> = (0..40usize).map(|n| (world.live(&[NAMES[n % 3]]), 1 << (n % 3))).collect();
    for round in 0..200usize {
        let at = round * 7 % there.len();
        let name = round % 3;
        match round % 5 {
            0 | 1 => {
                world.hub.join(there[at].0.identity.id, &topics(&[NAMES[name]])).unwrap();
                there[at].1 |= 1 << name;
            }
            2 | 3 => {
                world.hub.leave(there[at].0.identity.id, &topics(&[NAMES[name], "d"]));
                there[at].1 &= !(1 << name);
            }
            _ => {
                there[at].0.leave();
                there[at] = (world.live(&[NAMES[name]]), 1 << name);
            }
        }
        for name in NAMES {
            world.publish(&[name], name);
        }
        world.drain();
        for (stream, bits) in &there {
            let expected: Vec<_> = (0..3).filter(|name| bits & (1 << name) != 0).map(|n| NAMES[n]).collect();
            let got = stream.all();
            let got: Vec<_> = got.iter().map(|seen| seen.split(' ').next().unwrap()).collect();
            assert_eq!(got, expected, "after round {round}");
        }
    }
}

#[test]
fn what_is_sent_to_one_comes_in_order_and_is_not_replayed() {
    let world = World::new(config());
    let (one, other) = (world.live(&["a"]), world.live(&["a"]));
    world.publish(&["a"], "1");
    assert_eq!(world.hub.send(Some(one.identity.id), draft("mine")), Ok(true));
    world.publish(&["a"], "2");
    world.drain();
    assert_eq!(one.all(), ["1 #1", "mine", "2 #2"]);
    assert_eq!(other.all(), ["1 #1", "2 #2"]);
    let resumed = world.subscribe(&Request { last_event_id: Some(world.id(0)), ..request(&["a"]) });
    assert_eq!(resumed.all(), ["stream-open #0", "1 #1", "2 #2"]);
    one.leave();
    assert_eq!(world.hub.send(Some(one.identity.id), draft("x")), Ok(false));
    assert_eq!(world.hub.send(None, draft("x")), Ok(false));
    assert_eq!(world.stat("undeliverable"), 2);
}

#[test]
fn a_broadcast_reaches_all_and_is_replayed_like_a_topic() {
    let world = World::new(config());
    let none = world.live(&[]);
    world.hub.broadcast(draft("all")).unwrap();
    world.publish(&["a"], "x");
    world.drain();
    assert_eq!(none.all(), ["all #1"]);
    let past = Request { past: Some(Past::All), ..request(&["a"]) };
    assert_eq!(world.subscribe(&past).all(), ["stream-open #0", "all #1", "x #2"]);
}

#[test]
fn counts_and_lists_follow_the_subscribers() {
    let world = World::new(config());
    let (first, second) = (world.live(&["a", "b"]), world.live(&["b"]));
    let counts = |world: &World| [None, Some("a"), Some("b"), Some("c")].map(|topic| world.hub.count(topic));
    assert_eq!(counts(&world), [2, 1, 2, 0]);
    let names = |topic| world.hub.subscribers(topic).len();
    assert_eq!([None, Some("a"), Some("b"), Some("c")].map(names), [2, 1, 2, 0]);
    second.close(CloseReason::CLOSED);
    assert_eq!(counts(&world), [1, 1, 1, 0]);
    assert_eq!(world.hub.subscribers(Some("b"))[0].id, first.identity.id);
}

fn keeps(count: usize) -> Retention {
    Retention { count, bytes: 1 << 20, age: None }
}

fn kept(world: &World, topic: &str) -> usize {
    let stream = world.subscribe(&Request { past: Some(Past::All), ..request(&[topic]) });
    stream.all().len() - 1
}

#[test]
fn a_familys_rule_holds_for_its_topics_and_a_plain_name_beats_it() {
    let world = World::new(config());
    let rule = |pattern, count| world.hub.set_retention(&TopicPattern::new(pattern).unwrap(), keeps(count));
    rule("chat:vip", 7);
    rule("chat:*", 3);
    rule("*:old", 2);
    let publish = |topic: &str| (0..10).for_each(|_| _ = world.publish(&[topic], "x"));
    for topic in ["chat:vip", "chat:x", "chat:old", "other"] {
        publish(topic);
    }
    assert_eq!(["chat:vip", "chat:x", "chat:old", "other"].map(|topic| kept(&world, topic)), [7, 3, 2, 10]);
    rule("chat:*", 1);
    assert_eq!(["chat:vip", "chat:x", "chat:old", "other"].map(|topic| kept(&world, topic)), [7, 1, 1, 10]);
    let resumed = |seq| {
        let last_event_id = Some(world.id(seq));
        world.subscribe(&Request { last_event_id, ..request(&["chat:x"]) }).recovered()
    };
    assert_eq!((resumed(18), resumed(19)), (Some(false), Some(true)), "what a new rule evicts is remembered");
}

#[test]
fn the_hubs_budget_takes_the_oldest_of_all_topics() {
    let mut config = config();
    config.history_total_bytes = 20_000;
    let world = World::new(config);
    world.publish(&["quiet"], &"x".repeat(1000));
    world.publish(&["busy"], &"x".repeat(1000));
    for _ in 0..50 {
        world.publish(&["busy"], &"x".repeat(1000));
    }
    assert_eq!(kept(&world, "quiet"), 0);
    let resume = |topic| Request { last_event_id: Some(world.id(0)), ..request(&[topic]) };
    assert_eq!(world.subscribe(&resume("quiet")).recovered(), Some(false), "what was evicted is remembered");
    assert_eq!(world.subscribe(&resume("other")).recovered(), Some(true));
    assert!((15_000..=20_000).contains(&world.stat("history_bytes")));
}

#[test]
fn topics_nobody_is_in_and_that_keep_nothing_are_forgotten() {
    let mut config = config();
    config.retention.age = Some(SECOND);
    let world = World::new(config);
    let stream = world.live(&["kept by a subscriber"]);
    for n in 0..20_000 {
        world.publish(&[&format!("topic {n}")], "x");
        if n % 100 == 0 {
            world.advance(100 * MS);
        }
    }
    // At most 1,000 are younger than their age at any time, and the table is swept when it has doubled.
    let topics = world.hub.stats().iter().find(|(name, _)| *name == "topics").unwrap().1;
    assert!(topics < 3000, "{topics} topics");
    world.pass(2 * SECOND);
    assert_eq!((world.stat("topics"), world.stat("history_events")), (1, 0));
    assert_eq!(world.stat("history_bytes"), 0);
    let seq = world.publish(&["kept by a subscriber"], "still there");
    world.drain();
    assert_eq!(stream.all().last().unwrap(), &format!("still there #{seq}"));
}

#[test]
fn a_forgotten_topic_answers_on_the_safe_side_and_is_another_when_it_is_back() {
    let mut config = config();
    config.retention.age = Some(SECOND);
    let world = World::new(config);
    world.publish(&["a"], "1");
    world.publish(&["b"], "2");
    let there = world.live(&["b"]);
    world.pass(2 * SECOND);
    assert_eq!(world.stat("topics"), 1);
    world.publish(&["a"], "3");
    let resume = |seq| Request { last_event_id: Some(world.id(seq)), ..request(&["a"]) };
    assert_eq!(world.subscribe(&resume(0)).recovered(), Some(false), "1 was lost with its topic");
    assert_eq!(world.subscribe(&resume(1)).all(), ["stream-open #1", "3 #3"]);
    world.drain();
    assert_eq!(there.take(), Taken::Nothing);
}

#[test]
fn a_new_topic_is_whole_whatever_forgotten_topics_have_lost() {
    let mut config = config();
    config.retention = Retention { count: 2, bytes: 1 << 20, age: Some(SECOND) };
    let world = World::new(config);
    let opening = |topic: &str| {
        let stream = world.subscribe(&Request { past: Some(Past::All), ..request(&[topic]) });
        stream.poll().1[0].data.clone()
    };
    (0..3).for_each(|_| _ = world.publish(&["busy"], "x"));
    world.publish(&["whole"], "x");
    assert_eq!((opening("busy").as_str(), opening("whole").as_str()), (r#"{"complete":false}"#, ""));
    let newcomer = world.subscribe(&request(&["busy"]));
    assert_eq!(newcomer.poll().1[0].data, "", "only who asks for everything is told");
    newcomer.leave();
    // `stats` forgets the topics that keep nothing and have no subscribers.
    world.pass(2 * SECOND);
    world
        .hub
        .subscribers(None)
        .iter()
        .for_each(|found| _ = world.hub.drop_subscriber(&world.reader, found, CloseReason::CLOSED));
    assert_eq!(world.stat("topics"), 0);
    assert_eq!(opening("new"), "");
    assert_eq!(opening("busy"), r#"{"complete":false}"#, "what it lost is remembered by its name");
}

#[test]
fn joins_and_leaves_beside_a_reader_that_does_not_run_are_bounded() {
    let mut config = config();
    config.backlog_bytes = 1;
    let world = World::new(config);
    let idle = world.subscribe(&request(&["a"]));
    let refused = (0..100_000).find_map(|_| match world.try_subscribe(&request(&["a"])) {
        Ok(stream) => {
            stream.leave();
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(Error::ReaderBehind { .. })), "{refused:?}");
    world.publish(&["a"], "publishers go on");
    assert_eq!(world.hub.count(None), 1, "who was refused left nothing");
    while world.try_subscribe(&request(&["a"])).is_err() {
        world.drain();
    }
    assert_eq!(idle.all().last().unwrap(), "publishers go on #1");
}

#[test]
fn streams_that_share_many_topics_get_those_that_they_are_in() {
    let mut config = config();
    config.capacity.events = 1000;
    let world = World::new(config);
    let name = |n: usize| format!("t{n}");
    let many = |numbers: &[usize]| -> Vec<Topic> {
        numbers.iter().map(|&n| Topic::new(&name(n)).unwrap()).collect()
    };
    let (up, down): (Vec<usize>, Vec<usize>) = ((0..60).collect(), (0..60).rev().collect());
    let streams = [&up, &up, &down].map(|numbers| {
        let (first, rest) = numbers.split_at(20);
        let stream = world.live_with(&Request { topics: many(first), ..Request::default() });
        world.hub.join(stream.identity.id, &many(rest)).unwrap();
        stream
    });
    let leave = |stream: &Stream, is_left: fn(&usize) -> bool| {
        let left: Vec<usize> = down.iter().copied().filter(is_left).collect();
        assert!(world.hub.leave(stream.identity.id, &many(&left)));
    };
    leave(&streams[0], |n| n % 2 == 0);
    leave(&streams[2], |n| n % 3 == 0);
    world.hub.join(streams[0].identity.id, &many(&[4, 2, 2])).unwrap();
    world.drain();
    assert!(streams[1].leave());
    let seen = |stream: &Stream| -> Vec<String> {
        for &n in &up {
            world.publish(&[&name(n)], &n.to_string());
        }
        world.drain();
        stream.all().iter().map(|event| event.split(' ').next().unwrap().to_owned()).collect()
    };
    let those = |is_in: fn(&usize) -> bool| -> Vec<String> {
        up.iter().filter(|n| is_in(n)).map(ToString::to_string).collect()
    };
    assert_eq!(seen(&streams[0]), those(|n| n % 2 == 1 || [2, 4].contains(n)));
    streams[2].all();
    assert_eq!(seen(&streams[2]), those(|n| n % 3 != 0));
}
