//! How a stream begins: opening, reset, initial events, replay, and the seam to live events.

use std::time::Duration;

use sse_hub::control::ResetReason;
use sse_hub::error::Error;
use sse_hub::history::{Past, Retention};
use sse_hub::hub::Request;
use sse_hub::subscriber::Taken;

use crate::support::{SECOND, World, config, draft, request, resume, topics};

pub fn small_history() -> World {
    let mut config = config();
    config.retention = Retention { count: 3, bytes: 1 << 20, age: None };
    World::new(config)
}

#[test]
fn a_newcomer_opens_with_a_comment_its_retry_and_the_cursor() {
    let world = World::new(config());
    world.publish(&["a"], "before");
    let identity = world.hub.subscribe(&world.reader, &request(&["a"])).unwrap();
    let mut out = Vec::new();
    assert_eq!(world.hub.take(&world.reader, &identity, &mut out), Taken::Some);
    let text = std::str::from_utf8(out[0].frame.sse()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(':'), "a byte order mark could be eaten: {text:?}");
    assert_eq!(lines[1..4], [format!("id: {}", world.id(1)).as_str(), "event: stream-open", "data: "]);
    let retry: u64 = lines[4].strip_prefix("retry: ").unwrap().parse().unwrap();
    assert!((1000..=5000).contains(&retry), "{retry}");
    assert_eq!(identity.recovered.get(), Some(&None));
}

#[test]
fn what_is_published_after_joining_follows_the_opening() {
    let world = World::new(config());
    world.publish(&["a"], "before");
    let stream = world.subscribe(&request(&["a"]));
    world.publish(&["a"], "x");
    world.publish(&["b"], "not its topic");
    world.publish(&["b", "a"], "y");
    world.hub.broadcast(draft("all")).unwrap();
    world.drain();
    assert_eq!(stream.all(), ["stream-open #1", "x #2", "y #4", "all #5"]);
    assert_eq!(stream.take(), Taken::Nothing);
}

#[test]
fn one_published_to_two_of_its_topics_comes_once_also_in_a_replay() {
    let world = World::new(config());
    let stream = world.live(&["a", "b"]);
    world.publish(&["a", "b", "a"], "x");
    world.drain();
    assert_eq!(stream.all(), ["x #1"]);
    assert_eq!(world.subscribe(&resume(&["b", "a", "b"], &world.id(0))).all(), ["stream-open #0", "x #1"]);
}

#[test]
fn a_resumed_stream_has_no_gap_between_replay_and_live() {
    let world = World::new(config());
    for n in 1..=3 {
        world.publish(&["a"], &n.to_string());
    }
    let stream = world.subscribe(&resume(&["a"], &world.id(1)));
    world.publish(&["a"], "4");
    // Dispatched or not: the replay ends where it joined, the queue begins there.
    assert_eq!(stream.recovered(), Some(true));
    assert_eq!(stream.once(), ["stream-open #1", "2 #2", "3 #3"]);
    world.drain();
    world.publish(&["a"], "5");
    world.drain();
    assert_eq!(stream.all(), ["4 #4", "5 #5"]);
    assert_eq!(world.stat("resumed"), 1);
}

#[test]
fn a_long_replay_comes_in_pages_before_what_is_live() {
    let mut config = config();
    config.retention.count = 5000;
    let world = World::new(config);
    let expected: Vec<String> = (1..=2000).map(|n| format!("{n} #{n}")).collect();
    for n in 1..=1900 {
        world.publish(&["a"], &n.to_string());
    }
    let stream = world.subscribe(&resume(&["a"], &world.id(0)));
    for n in 1901..=2000 {
        world.publish(&["a"], &n.to_string());
        world.drain();
    }
    let mut got = Vec::new();
    let mut visits = 0;
    while stream.closed().is_none() && got.len() < 2001 {
        let page = stream.once();
        assert!(page.len() <= 513, "one visit gave {} events", page.len());
        got.extend(page);
        visits += 1;
    }
    assert_eq!(got[1..], expected);
    assert!(visits >= 4);
}

#[test]
fn an_id_that_cannot_be_continued_is_answered_with_a_reset() {
    let world = World::new(config());
    world.publish(&["a"], "1");
    let long = format!("x{}", "y".repeat(200));
    let ids = [
        ("nonsense", ResetReason::Unknown, Some("nonsense")),
        ("\"\n}", ResetReason::Unknown, Some("\"\n}")),
        (long.as_str(), ResetReason::Unknown, None),
        ("otherepoch-1", ResetReason::Epoch, Some("otherepoch-1")),
    ];
    let ahead = world.id(2);
    for (id, reason, shown) in ids.into_iter().chain([(ahead.as_str(), ResetReason::Ahead, Some(&*ahead))]) {
        let stream = world.subscribe(&resume(&["a"], id));
        let (_, seen) = stream.poll();
        assert_eq!(seen[1].name, "stream-reset");
        let data: serde_json::Value = serde_json::from_str(&seen[1].data).unwrap();
        assert_eq!(data, serde_json::json!({"reason": reason.as_str(), "requested": shown}));
        assert_eq!(stream.recovered(), Some(false));
        assert_eq!(stream.take(), Taken::Nothing);
    }
    assert_eq!(world.stat("resets"), 5);
    assert_eq!(world.subscribe(&resume(&["a"], "")).recovered(), None, "an empty id is none");
}

/// Each event a client has whole may be its last: a stream cut behind any of them must, on resuming, be
/// continued from there or be reset.
#[test]
fn no_cut_in_the_opening_hides_a_reset() {
    let world = small_history();
    for n in 1..=9 {
        world.publish(&["a"], &n.to_string());
    }
    for (id, past) in [
        (world.id(2), None),
        ("nonsense".into(), None),
        ("nonsense".into(), Some(Past::All)),
        (world.id(99), None),
    ] {
        let stream = world.subscribe(&Request { past, ..resume(&["a"], &id) });
        let (_, seen) = stream.poll();
        let at = seen.iter().position(|event| event.name == "stream-reset").expect("a reset");
        for event in &seen[..at] {
            assert_eq!(event.id, None, "cut behind {event:?}, the client would never hear of its reset");
        }
        let last = seen[..=at].iter().rev().find_map(|event| event.id.clone());
        let last = last.expect("cut behind the reset, the client would be reset again and again");
        assert_eq!(world.subscribe(&resume(&["a"], &last)).recovered(), Some(true), "{id} {past:?}");
    }
}

#[test]
fn what_history_lost_is_said_and_what_it_keeps_still_comes() {
    let world = small_history();
    for n in 1..=5 {
        world.publish(&["a"], &n.to_string());
    }
    let whole = world.subscribe(&resume(&["a"], &world.id(2)));
    assert_eq!(whole.recovered(), Some(true), "nothing above 2 was lost");
    assert_eq!(whole.all(), ["stream-open #2", "3 #3", "4 #4", "5 #5"]);
    let reset = world.subscribe(&resume(&["a"], &world.id(1)));
    assert_eq!(reset.recovered(), Some(false));
    let all = reset.all();
    assert!(all[1].starts_with(r#"stream-reset {"reason":"evicted""#), "{all:?}");
    assert_eq!(all[2..], ["3 #3", "4 #4", "5 #5"]);
    let other = world.subscribe(&resume(&["b"], &world.id(1)));
    assert_eq!(other.recovered(), Some(true), "another topic lost nothing");
}

#[test]
fn what_is_evicted_while_a_replay_waits_is_said() {
    let world = small_history();
    for n in 1..=3 {
        world.publish(&["a"], &n.to_string());
    }
    let stream = world.subscribe(&resume(&["a"], &world.id(0)));
    world.publish(&["a"], "4");
    world.drain();
    let all = stream.all();
    assert_eq!(all[0], "stream-open #0");
    assert!(all[1].starts_with("stream-reset"), "{all:?}");
    assert_eq!(all[2..], ["2 #2", "3 #3", "4 #4"]);
}

/// A busy topic evicts at its full ring with every event: what a newcomer never had is not missed.
#[test]
fn a_newcomer_learns_of_a_past_that_moved_on_if_it_was_promised_all() {
    let world = small_history();
    for n in 1..=3 {
        world.publish(&["a"], &n.to_string());
    }
    let all = || world.subscribe(&Request { past: Some(Past::All), ..request(&["a"]) });
    let last = world.subscribe(&Request { past: Some(Past::Last(3)), ..request(&["a"]) });
    let whole = all();
    world.publish(&["a"], "4");
    world.drain();
    assert_eq!(last.all(), ["stream-open #0", "2 #2", "3 #3", "4 #4"]);
    let told = whole.all();
    assert_eq!(told[0], "stream-open #0", "it is complete");
    assert!(told[1].starts_with("stream-reset {\"reason\":\"evicted\""), "and no longer: {told:?}");
    let partial = all();
    world.publish(&["a"], "5");
    world.drain();
    assert_eq!(partial.all(), ["stream-open {\"complete\":false} #1", "3 #3", "4 #4", "5 #5"]);
    let reset = world.subscribe(&resume(&["a"], &world.id(0)));
    world.publish(&["a"], "6");
    world.drain();
    let resets = reset.all().iter().filter(|event| event.starts_with("stream-reset")).count();
    assert_eq!(resets, 1, "one gap is announced once");
}

#[test]
fn a_newcomers_past_is_per_topic_and_its_own_id_beats_it() {
    let world = World::new(config());
    for n in 1..=3 {
        world.publish(&["a"], &format!("a{n}"));
        world.publish(&["b"], &format!("b{n}"));
    }
    let last = |n| Request { past: Some(Past::Last(n)), ..request(&["a", "b"]) };
    assert_eq!(world.subscribe(&last(1)).all(), ["stream-open #4", "a3 #5", "b3 #6"]);
    assert_eq!(world.subscribe(&last(2)).all(), ["stream-open #2", "a2 #3", "b2 #4", "a3 #5", "b3 #6"]);
    assert_eq!(world.subscribe(&last(0)).all(), ["stream-open #6"]);
    let all = world.subscribe(&Request { past: Some(Past::All), ..request(&["b"]) });
    assert_eq!(all.all(), ["stream-open #1", "b1 #2", "b2 #4", "b3 #6"]);
    let own = Request { last_event_id: Some(world.id(5)), ..last(3) };
    assert_eq!(world.subscribe(&own).all(), ["stream-open #5", "b3 #6"]);
}

#[test]
fn history_older_than_its_age_is_neither_replayed_nor_reached() {
    let mut config = config();
    config.retention.age = Some(10 * SECOND);
    let world = World::new(config);
    world.publish(&["a"], "1");
    world.advance(6 * SECOND);
    world.publish(&["a"], "2");
    world.advance(6 * SECOND);
    let all = world.subscribe(&Request { past: Some(Past::All), ..request(&["a"]) }).all();
    assert_eq!(all, [r#"stream-open {"complete":false} #1"#, "2 #2"]);
    assert_eq!(world.subscribe(&resume(&["a"], &world.id(0))).recovered(), Some(false));
    assert_eq!(world.subscribe(&resume(&["a"], &world.id(1))).recovered(), Some(true));
}

#[test]
fn the_hub_turns_newcomers_away_at_its_limit() {
    let mut config = config();
    config.max_subscribers = Some(2);
    let world = World::new(config);
    let first = world.live(&["a"]);
    let _second = world.live(&["a"]);
    let third = world.try_subscribe(&request(&["a"]));
    assert_eq!(third.err(), Some(Error::TooManySubscribers { limit: 2 }));
    assert_eq!((world.stat("turned_away"), world.stat("subscribers"), world.hub.unfinished()), (1, 2, 2));
    assert!(first.leave());
    assert!(world.try_subscribe(&request(&["a"])).is_ok());
}

#[test]
fn a_user_is_turned_away_at_its_limit() {
    let mut config = config();
    config.max_per_user = Some(2);
    let world = World::new(config);
    let of = |user: Option<&str>| Request { user: user.map(Into::into), ..request(&["a"]) };
    let first = world.live_with(&of(Some("ann")));
    let _second = world.live_with(&of(Some("ann")));
    let error = world.try_subscribe(&of(Some("ann"))).err().unwrap();
    assert_eq!(error.to_string(), "user \"ann\" has max_per_user=2 streams");
    assert_eq!((world.stat("turned_away"), world.hub.unfinished()), (1, 2));
    let others = [Some("bob"), Some("bob"), None, None, None].map(|user| world.live_with(&of(user)));
    assert_eq!(["ann", "bob", "cat"].map(|user| world.hub.count_of_user(user)), [2, 2, 0]);
    assert!(first.leave());
    let tight = Request { user_room: Some(1), ..of(Some("ann")) };
    assert!(world.try_subscribe(&tight).is_err(), "another process has one");
    assert!(world.try_subscribe(&of(Some("ann"))).is_ok());
    drop(others);
}

#[test]
fn a_stream_has_at_most_max_topics() {
    let mut config = config();
    config.max_topics = Some(2);
    let world = World::new(config);
    let error = world.try_subscribe(&request(&["a", "b", "c"])).err();
    assert_eq!(error, Some(Error::TooManyTopics { count: 3, limit: 2 }));
    let stream = world.live_with(&request(&["a", "a", "b", "b"]));
    let id = stream.identity.id;
    let join = |names: &[&str]| world.hub.join(id, &topics(names));
    assert_eq!(join(&["a", "c"]), Err(Error::TooManyTopics { count: 3, limit: 2 }));
    assert_eq!(join(&["a", "b"]), Ok(true));
    assert!(world.hub.leave(id, &topics(&["a"])));
    assert_eq!(join(&["c", "c"]), Ok(true));
    let names = world.hub.topics_of(&stream.identity);
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn a_stream_knows_what_it_was_asked_for() {
    let world = World::new(config());
    let stream = world.live_with(&Request { user: Some("ann".into()), ..request(&["b", "a"]) });
    assert_eq!(stream.identity.user.as_deref(), Some("ann"));
    let names = world.hub.topics_of(&stream.identity);
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
    let found = world.hub.get(&stream.identity.name()).expect("found by its public id");
    assert_eq!(found.id, stream.identity.id);
    for name in ["", "c-", "c-zzzzzzzzzzzzzzzzzzzz", "x", &stream.identity.name().to_uppercase()] {
        assert!(world.hub.get(name).is_none(), "{name:?}");
    }
    stream.leave();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.hub.topics_of(&stream.identity).len(), 2, "those it had");
    assert!(world.hub.get(&stream.identity.name()).is_none());
}
