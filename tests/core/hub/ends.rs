//! Topics that end: what their subscribers receive before the end, what later clients receive, and when names are free.

use std::time::Duration;

use sse_hub::ending::{EndState, Ending, Format};
use sse_hub::error::Error;
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::ids::GroupId;
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;

use crate::support::{MS, SECOND, STALL, Stream, World, config, draft, request, topics};

pub const KEEP: Duration = Duration::from_secs(300);
pub const END: &str = "stream-end {\"state\":\"ended\"}";

impl World {
    pub fn end(&self, topic: &str) -> u64 {
        self.hub.finish(&Topic::new(topic).unwrap(), KEEP, &Ending::ENDED).unwrap().seq
    }
}

pub fn all_past(names: &[&str]) -> Request {
    Request { past: Some(Past::All), ..request(names) }
}

/// Everything that a driver takes, as it closes the stream when it has taken all.
pub fn read(world: &World, stream: &Stream) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let (taken, seen) = stream.poll();
        all.extend(seen.iter().map(crate::support::Seen::short));
        match taken {
            Taken::Finished => {
                let closed = world.hub.close_finished(&stream.reader, &stream.identity);
                assert_eq!(closed.map(|(reason, _)| reason), Some(CloseReason::Ended));
                assert_eq!(stream.take(), Taken::End);
                return all;
            }
            Taken::Some => {}
            _ => return all,
        }
    }
}

#[test]
fn subscribers_get_what_waits_and_then_the_end() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    let other = world.live(&["b"]);
    world.publish(&["a"], "1");
    assert_eq!(world.end("a"), 2);
    world.hub.broadcast(draft("to all")).unwrap();
    world.drain();
    assert_eq!(read(&world, &stream), ["1 #1", &format!("{END} #2")]);
    assert_eq!((stream.closed(), world.hub.count(None)), (Some("ended"), 1));
    assert_eq!(other.all(), ["to all #3"]);
}

#[test]
fn nothing_is_published_to_a_topic_that_has_ended() {
    let world = World::new(config());
    world.end("a");
    let ended = Err(Error::TopicEnded { topic: "a".into() });
    assert_eq!(world.try_publish(&["b", "a"], "x").map(|id| id.seq), ended);
    let again = world.hub.finish(&Topic::new("a").unwrap(), KEEP, &Ending::ENDED);
    assert_eq!(again.map(|id| id.seq), ended);
    assert_eq!(world.stat("cursor"), 1, "nothing was numbered");
    assert_eq!(world.publish(&["b"], "x"), 2);
}

#[test]
fn a_stream_ends_when_all_its_topics_have() {
    let world = World::new(config());
    let stream = world.live(&["a", "b"]);
    let left = world.live(&["a", "c"]);
    world.end("a");
    world.publish(&["b"], "still");
    world.drain();
    assert_eq!(stream.all(), ["still #2"]);
    assert_eq!(left.take(), Taken::Nothing);
    world.hub.leave(left.identity.id, &topics(&["c"]));
    world.end("b");
    world.drain();
    assert_eq!(read(&world, &stream), [format!("{END} #3")]);
    assert_eq!(read(&world, &left), [format!("{END} #1")]);
}

#[test]
fn later_clients_get_what_is_kept_and_then_the_end() {
    let world = World::new(config());
    world.publish(&["a"], "1");
    world.publish(&["b"], "other");
    world.publish(&["a"], "2");
    world.end("a");
    world.hub.broadcast(draft("to all")).unwrap();
    for (request, mut expected) in [
        (all_past(&["a"]), vec!["stream-open #0", "1 #1", "2 #3"]),
        (request(&["a"]), vec!["stream-open #3"]),
        (Request { last_event_id: Some(world.id(1)), ..request(&["a"]) }, vec!["stream-open #1", "2 #3"]),
    ] {
        let stream = world.subscribe(&request);
        world.drain();
        expected.push("stream-end {\"state\":\"ended\"} #4");
        assert_eq!(read(&world, &stream), expected, "as those who were there: nothing behind the end");
    }
    let some = world.subscribe(&all_past(&["a", "b"]));
    world.drain();
    assert_eq!(some.all(), ["stream-open #0", "1 #1", "other #2", "2 #3", "to all #5"]);
    world.end("b");
    world.drain();
    assert_eq!(read(&world, &some), [format!("{END} #6")]);
}

#[test]
fn a_snapshot_comes_before_the_end() {
    let world = World::new(config());
    world.publish(&["a"], "1");
    world.end("a");
    let stream = world.subscribe(&Request { initial: true, ..request(&["a"]) });
    world.drain();
    assert_eq!(read(&world, &stream), ["stream-open"]);
    assert!(stream.initial(&["row"]));
    assert_eq!(read(&world, &stream), ["row #1", &format!("{END} #2")]);
}

#[test]
fn a_client_with_the_end_has_everything() {
    let world = World::new(config());
    let is_over = |names: &[&str], seq| world.has_everything(names, &world.id(seq));
    world.publish(&["a"], "1");
    world.end("a");
    assert!(!is_over(&["a"], 1) && is_over(&["a"], 2) && !is_over(&["a", "b"], 2));
    world.end("b");
    assert!(!is_over(&["a", "b"], 2) && is_over(&["a", "b"], 3));
    assert!(!is_over(&["a"], 3), "a later id says nothing of the end");
    assert!(!is_over(&[], 3) && !is_over(&["a"], 4) && !world.has_everything(&["a"], "k3f9x2-9"));
    world.advance(KEEP);
    assert!(!is_over(&["a"], 2), "its name is free");
}

/// However a client comes, and wherever it is cut: it comes back for the end until it has it.
#[test]
fn a_client_has_everything_only_with_the_end() {
    let world = World::new(config());
    world.end("empty");
    world.publish(&["a"], "1");
    world.end("a");
    world.end("b");
    world.publish(&["other"], "x");
    world.hub.broadcast(draft("to all")).unwrap();
    let back = |id: u64| Some(world.id(id));
    for names in [&["empty"][..], &["a"], &["a", "b"]] {
        for last_event_id in [None, Some("k3f9x2-9".into()), back(0), back(2), back(3), back(4), back(6)] {
            for past in [None, Some(Past::All), Some(Past::Last(1))] {
                for initial in [None, Some(&[][..]), Some(&["row", "last row"][..])] {
                    let asked = Request { last_event_id: last_event_id.clone(), past, ..request(names) };
                    let stream = world.subscribe(&Request { initial: initial.is_some(), ..asked.clone() });
                    world.drain();
                    let mut seen = read(&world, &stream);
                    if let Some(rows) = initial {
                        stream.initial(rows);
                        seen.extend(read(&world, &stream));
                    }
                    for seen in &seen {
                        let Some((said, seq)) = seen.rsplit_once('#') else { continue };
                        let is_end = said.starts_with("stream-end");
                        let id = world.id(seq.parse().unwrap());
                        let is_over = world.has_everything(names, &id);
                        assert_eq!(is_over, is_end, "{seen} of {asked:?}");
                    }
                    assert!(seen.last().is_some_and(|seen| seen.starts_with(END) && seen.contains('#')));
                }
            }
        }
    }
}

/// The end of its body is all that it is told, so it needs to come back for nothing.
#[test]
fn a_stream_without_last_events_begins_with_the_ends_id() {
    let world = World::new(config());
    world.end("a");
    world.publish(&["other"], "x");
    let stream = world.subscribe(&Request { no_control: true, ..request(&["a"]) });
    world.drain();
    assert_eq!(read(&world, &stream), ["#1"]);
    assert!(world.has_everything(&["a"], &world.id(1)));
}

/// It was there, or it came later: its last id is that of an event, and what is left behind that is nothing.
#[test]
fn a_stream_without_last_events_is_over_when_nothing_is_left_behind_its_id() {
    let world = World::new(config());
    let has_everything = |names: &[&str], seq, no_control| {
        let last_event_id = Some(world.id(seq));
        world.hub.has_everything(&Request { last_event_id, no_control, ..request(names) })
    };
    for n in ["1", "2"] {
        world.publish(&["a"], n);
    }
    assert!(!has_everything(&["a"], 2, true), "more may come");
    world.end("a");
    world.publish(&["b"], "3");
    assert_eq!(
        [0, 1, 2, 3, 4].map(|seq| has_everything(&["a"], seq, true)),
        [false, false, true, true, true]
    );
    assert_eq!([1, 2, 3, 4].map(|seq| has_everything(&["a"], seq, false)), [false, false, true, false]);
    assert!(!has_everything(&["a", "b"], 4, true));
    world.hub.broadcast(draft("to all")).unwrap();
    world.end("b");
    assert_eq!(
        [4, 5].map(|seq| has_everything(&["b"], seq, true)),
        [false, true],
        "a broadcast before the end"
    );
    assert!(!has_everything(&["a"], 9, true), "an id that was never given");
    world.advance(KEEP);
    assert!(!has_everything(&["a"], 2, true), "its name is free");
}

#[test]
fn a_name_is_free_when_its_time_is_over() {
    let world = World::new(config());
    world.publish(&["a"], "old");
    world.end("a");
    world.advance(KEEP - MS);
    assert!(world.try_publish(&["a"], "x").is_err());
    assert_eq!(world.hub.ending("a"), Some(Ending::ENDED));
    world.advance(MS);
    assert_eq!(world.hub.ending("a"), None);
    world.publish(&["a"], "new");
    let stream = world.subscribe(&all_past(&["a"]));
    world.drain();
    assert_eq!(stream.all().last().map(String::as_str), Some("new #3"));
    assert_eq!((stream.take(), stream.closed()), (Taken::Nothing, None));
    assert_eq!(world.stat("history_events"), 1, "what the old one kept is gone");
}

#[test]
fn the_end_follows_a_client_that_moves_to_another_reader() {
    let world = World::new(config());
    let reactor = World::of(&world.hub);
    let hand = |stream: &Stream| {
        let moved =
            world.hub.transfer(&world.reader, &reactor.reader, &stream.identity, GroupId::NONE).unwrap();
        reactor.stream_of(moved)
    };
    world.publish(&["a"], "1");
    // Before its loop has seen the end, after that, and in topics one of which ended earlier.
    let before = world.subscribe(&all_past(&["a"]));
    let two = world.subscribe(&request(&["a", "b"]));
    world.end("a");
    let before = hand(&before);
    let two = hand(&two);
    let after = world.subscribe(&all_past(&["a"]));
    world.drain();
    let after = hand(&after);
    world.publish(&["b"], "still");
    reactor.drain();
    for stream in [before, after] {
        assert_eq!(read(&reactor, &stream), ["stream-open #0", "1 #1", &format!("{END} #2")]);
    }
    assert_eq!(read(&reactor, &two), ["stream-open #1", "still #3"]);
    world.end("b");
    reactor.drain();
    assert_eq!(read(&reactor, &two), [format!("{END} #4")]);
}

#[test]
fn a_close_on_the_way_lets_the_end_out() {
    let world = World::new(config());
    let stream = world.live(&["a"]);
    world.end("a");
    world.hub.begin_close();
    world.drain();
    assert_eq!(stream.all(), [format!("{END} #1")]);
    assert_eq!((stream.take(), stream.closed()), (Taken::End, Some("hub_closed")));
}

#[test]
fn a_client_that_takes_nothing_is_cut_all_the_same() {
    let world = World::new(config());
    let stream = world.subscribe(&request(&["a"]));
    world.drain();
    assert_eq!(stream.once(), ["stream-open #0"]);
    world.end("a");
    let closed = world.pass(STALL + SECOND);
    assert_eq!(closed.first().map(|(_, reason)| reason.clone()), Some(CloseReason::Stalled));
}

#[test]
fn without_control_events_a_format_says_how_it_ended() {
    let ending = Ending { state: EndState::Failed, error: Some("no model".into()) };
    for (format, expected) in [
        (None, vec![": 0", "1 #1"]),
        (Some(Format::AiSdk), vec![": 0", "1 #1", "errorText"]),
        (Some(Format::OpenAi), vec![": 0", "1 #1", "\"error\""]),
        (Some(Format::AgUi), vec![": 0", "1 #1", "RUN_ERROR"]),
    ] {
        let world = World::new(config());
        let stream = world.live_with(&Request { no_control: true, format, ..request(&["a"]) });
        world.publish(&["a"], "1");
        world.hub.finish(&Topic::new("a").unwrap(), KEEP, &ending).unwrap();
        world.drain();
        let got = read(&world, &stream);
        assert_eq!(got.len(), expected.len() - 1, "{got:?}");
        for (got, expected) in got.iter().zip(&expected[1..]) {
            assert!(got.contains(expected), "{got}");
        }
        if format.is_some() {
            assert!(got[1].contains("no model") && got[1].ends_with("#2"), "{got:?}");
        }
    }
}

#[test]
fn a_runs_topic_keeps_everything_beside_all_budgets() {
    let mut config = config();
    config.retention.count = 2;
    config.history_total_bytes = 2000;
    let world = World::new(config);
    let run = Topic::new("run").unwrap();
    world.publish(&["run"], "before it began");
    world.hub.begin_whole(&run).unwrap();
    assert_eq!((world.hub.is_followed("run"), world.hub.is_followed("other")), (Some(true), Some(false)));
    for at in 0..50 {
        world.publish(&["run"], &format!("{at}"));
        world.publish(&["other", "run"], "both");
        world.publish(&["other"], "x");
    }
    assert!(world.stat("history_events") >= 100);
    world.end("run");
    let stream = world.subscribe(&all_past(&["run"]));
    world.drain();
    let got = read(&world, &stream);
    assert_eq!(got[0], "stream-open #2", "it is complete");
    assert_eq!(got.len(), 102);
    assert!(got[1].starts_with("0 #") && got[2].starts_with("both #"));
    world.advance(KEEP);
    assert_eq!(world.hub.is_followed("run"), Some(false));
    assert!(world.stat("history_bytes") <= 2000 && world.stat("history_events") <= 2);
}

#[test]
fn a_name_that_begins_again_is_complete_and_has_nothing_of_before() {
    let world = World::new(config());
    let run = Topic::new("run").unwrap();
    for round in 0..3 {
        world.hub.begin_whole(&run).unwrap();
        let first = world.publish(&["run"], &format!("{round}"));
        let stream = world.subscribe(&all_past(&["run"]));
        world.drain();
        assert_eq!(stream.all(), [format!("stream-open #{}", first - 1), format!("{round} #{first}")]);
        // An id of the life before, from before its last event.
        if round > 0 {
            let old = Request { last_event_id: Some(world.id(first - 4)), ..all_past(&["run"]) };
            let old = world.subscribe(&old);
            world.drain();
            assert_eq!(old.recovered(), Some(false));
        }
        world.end("run");
        world.advance(KEEP);
    }
}

#[test]
fn a_runs_watcher_is_never_cut_for_what_waits() {
    let world = World::new(config());
    world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    let watcher = Request { follows_run: true, ..all_past(&["run"]) };
    let stream = world.subscribe(&watcher);
    world.drain();
    assert_eq!(stream.once().len(), 1);
    world.stick("run");
    for _ in 0..100 {
        world.publish(&["run"], "x");
        world.turn();
    }
    assert_eq!(read(&world, &stream).len(), 108);
    assert_eq!(stream.closed(), None);
}

#[test]
fn ended_topics_leave_nothing_behind() {
    let world = World::new(config());
    for at in 0..3000 {
        let name = format!("t{at}");
        world.publish(&[&name], "x");
        world.end(&name);
        world.advance(SECOND);
    }
    assert!(world.stat("topics") <= 301 && world.stat("history_events") <= 301);
    world.advance(KEEP);
    assert_eq!((world.stat("topics"), world.stat("history_bytes")), (0, 0));
}
