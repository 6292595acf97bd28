//! Topics that end: what their subscribers get before the end, what later clients get, and when names are free.

use std::time::Duration;

use proptest::prelude::*;
use sse_hub::ending::{EndState, Ending, Format};
use sse_hub::error::Error;
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::ids::GroupId;
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;

use crate::support::{MS, SECOND, STALL, Stream, World, cases, config, draft, request, topics};

const KEEP: Duration = Duration::from_secs(300);
const END: &str = "stream-end {\"state\":\"ended\"}";

impl World {
    fn end(&self, topic: &str) -> u64 {
        self.hub.finish(&Topic::new(topic).unwrap(), KEEP, &Ending::ENDED).unwrap().seq
    }
}

fn all_past(names: &[&str]) -> Request {
    Request { past: Some(Past::All), ..request(names) }
}

/// Everything that a driver takes, as it closes the stream when it has taken all.
fn read(world: &World, stream: &Stream) -> Vec<String> {
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
    for (request, expected) in [
        (all_past(&["a"]), vec!["stream-open #0", "1 #1", "2 #3"]),
        (request(&["a"]), vec!["stream-open #5"]),
        (Request { last_event_id: Some(world.id(1)), ..request(&["a"]) }, vec!["stream-open #1", "2 #3"]),
    ] {
        let stream = world.subscribe(&request);
        world.drain();
        let mut got = read(&world, &stream);
        assert_eq!(got.pop().as_deref(), Some(&*format!("{END} #4")));
        got.retain(|seen| !seen.starts_with("to all"));
        assert_eq!(got, expected);
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
    assert_eq!(read(&world, &stream), ["row #2", &format!("{END} #2")]);
}

#[test]
fn who_has_the_end_is_over() {
    let world = World::new(config());
    let is_over = |names: &[&str], seq| world.hub.is_over(&topics(names), &world.id(seq));
    world.publish(&["a"], "1");
    world.end("a");
    assert!(!is_over(&["a"], 1) && is_over(&["a"], 2) && !is_over(&["a", "b"], 2));
    world.end("b");
    assert!(!is_over(&["a", "b"], 2) && is_over(&["a", "b"], 3) && is_over(&["a"], 3));
    assert!(!is_over(&[], 3) && !is_over(&["a"], 4) && !world.hub.is_over(&topics(&["a"]), "k3f9x2-9"));
    world.advance(KEEP);
    assert!(!is_over(&["a"], 2), "its name is free");
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
    // Before its loop has seen the end, after that, and of topics of which one has ended before.
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
    assert_eq!(got[0], "stream-open #1", "it is complete");
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
            let old = Request { last_event_id: Some(world.id(first - 3)), ..all_past(&["run"]) };
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
    let watcher = Request { has_all_room: true, ..all_past(&["run"]) };
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

#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    End(usize),
    Come(Vec<usize>),
    Return(usize),
    Join(usize, usize),
    Leave(usize, usize),
    Drain,
    Take(usize),
    Move(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize).prop_map(Step::Publish),
        1 => (0..3usize).prop_map(Step::End),
        2 => prop::collection::vec(0..3usize, 1..3).prop_map(Step::Come),
        2 => (0..8usize).prop_map(Step::Return),
        1 => (0..8usize, 0..3usize).prop_map(|(who, topic)| Step::Join(who, topic)),
        1 => (0..8usize, 0..3usize).prop_map(|(who, topic)| Step::Leave(who, topic)),
        3 => Just(Step::Drain),
        3 => (0..8usize).prop_map(Step::Take),
        1 => (0..8usize).prop_map(Step::Move),
    ];
    prop::collection::vec(step, 1..60)
}

/// A client that reads one topic set from its beginning, and the number of the last event that it saw.
struct Client {
    names: Vec<&'static str>,
    stream: Stream,
    at: bool,
    got: Vec<String>,
    last: u64,
    is_fixed: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    /// Whatever the order of publishing, ending, coming, moving and draining: a client that stays in its topics gets
    /// each of their events once, and the end if and only if all have ended.
    #[test]
    fn a_client_gets_everything_and_the_end(steps in steps()) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut config = config();
        config.capacity.events = 1000;
        let worlds = [World::new(config), ];
        let worlds = [World::of(&worlds[0].hub), World::of(&worlds[0].hub)];
        let hub = worlds[0].hub.clone();
        let mut log: Vec<(&str, u64)> = Vec::new();
        let mut ended = [0u64; 3];
        let mut clients: Vec<Client> = Vec::new();
        for step in steps {
            match step {
                Step::Publish(topic) => {
                    match worlds[0].try_publish(&[NAMES[topic]], "x") {
                        Ok(id) => { prop_assert_eq!(ended[topic], 0); log.push((NAMES[topic], id.seq)); }
                        Err(_) => prop_assert!(ended[topic] > 0),
                    }
                }
                Step::End(topic) if ended[topic] == 0 => ended[topic] = worlds[0].end(NAMES[topic]),
                Step::Come(which) => {
                    let mut names: Vec<_> = which.iter().map(|&at| NAMES[at]).collect();
                    names.dedup();
                    let stream = worlds[0].subscribe(&all_past(&names));
                    clients.push(Client { names, stream, at: false, got: Vec::new(), last: 0, is_fixed: true });
                }
                Step::Return(who) if who < clients.len() => {
                    let client = &mut clients[who];
                    let id = worlds[0].id(client.last);
                    let is_over = hub.is_over(&topics(&client.names), &id);
                    let ends = client.names.iter().map(|name| ended[NAMES.iter().position(|it| it == name).unwrap()]);
                    let all: Option<Vec<u64>> = ends.map(|end| (end > 0).then_some(end)).collect();
                    let expected = all.is_some_and(|all| all.iter().all(|&end| client.last >= end));
                    prop_assert_eq!(is_over, expected);
                    if !is_over {
                        client.stream.leave();
                        let request = Request { last_event_id: Some(id), ..all_past(&client.names) };
                        client.stream = worlds[0].subscribe(&request);
                        client.at = false;
                    }
                }
                Step::Join(who, topic) if who < clients.len() => {
                    hub.join(clients[who].stream.identity.current().id, &topics(&[NAMES[topic]])).unwrap();
                    clients[who].is_fixed &= clients[who].names.contains(&NAMES[topic]);
                }
                Step::Leave(who, topic) if who < clients.len() => {
                    hub.leave(clients[who].stream.identity.current().id, &topics(&[NAMES[topic]]));
                    clients[who].is_fixed &= !clients[who].names.contains(&NAMES[topic]);
                }
                Step::Move(who) if who < clients.len() && !clients[who].at => {
                    let client = &mut clients[who];
                    let identity = client.stream.identity.clone();
                    if let Some(moved) = hub.transfer(&worlds[0].reader, &worlds[1].reader, &identity, GroupId::NONE) {
                        client.stream = worlds[1].stream_of(moved);
                        client.at = true;
                    }
                }
                Step::Drain => { for world in &worlds { world.drain(); } }
                Step::Take(who) if who < clients.len() => take(&worlds, &mut clients[who]),
                Step::End(_) | Step::Return(_) | Step::Join(..) | Step::Leave(..) | Step::Move(_) | Step::Take(_) => {}
            }
        }
        for world in &worlds { world.drain(); }
        for client in clients.iter_mut().filter(|client| client.is_fixed) {
            take(&worlds, client);
            let mut expected: Vec<String> = log.iter()
                .filter(|(name, _)| client.names.contains(name))
                .map(|(_, seq)| format!("x #{seq}"))
                .collect();
            let ends: Vec<u64> = client.names.iter()
                .map(|name| ended[NAMES.iter().position(|it| it == name).unwrap()]).collect();
            if ends.iter().all(|&end| end > 0) {
                expected.push(format!("{END} #{}", ends.iter().max().unwrap()));
            }
            prop_assert_eq!(&client.got, &expected);
        }
    }
}

fn take(worlds: &[World; 2], client: &mut Client) {
    let got = read(&worlds[usize::from(client.at)], &client.stream);
    for seen in got {
        if let Some((_, seq)) = seen.rsplit_once('#') {
            client.last = client.last.max(seq.parse().unwrap());
        }
        if !seen.starts_with("stream-open") && !seen.starts_with("stream-cursor") {
            client.got.push(seen);
        }
    }
}
