//! Streams of runs: they carry the run's own events and what is sent to their client, and depend on nothing else.

use std::time::Duration;

use sse_hub::broker::letter::{Letter, Step};
use sse_hub::ending::{EndState, Ending};
use sse_hub::error::Error;
use sse_hub::hub::Request;
use sse_hub::ids::{GroupId, StreamId};
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;

use crate::ends::{KEEP, all_past, read};
use crate::stream::{later, seen};
use crate::stream_world::{Stream, Worker, beginning};
use crate::support::{World, config, draft, topics};

fn watching(run: &str) -> Request {
    Request { follows_run: true, ..all_past(&[run]) }
}

fn begun() -> World {
    let world = World::new(config());
    world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    world
}

/// More broadcasts than are kept.
fn broadcast(world: &World) {
    (0..2 * config().retention.count).for_each(|_| _ = world.hub.broadcast(draft("to all")).unwrap());
    world.drain();
}

#[test]
fn a_watcher_gets_the_run_and_what_is_sent_to_it() {
    let world = begun();
    broadcast(&world);
    let first = world.publish(&["run"], "1");
    let (early, live) = (world.subscribe(&watching("run")), world.live_with(&watching("run")));
    broadcast(&world);
    world.hub.send(Some(early.identity.id), draft("for you")).unwrap();
    let second = world.publish(&["run"], "2");
    world.drain();
    let opening = format!("stream-open #{}", first - 1);
    let (one, two) = (format!("1 #{first}"), format!("2 #{second}"));
    assert_eq!(early.all(), [&opening, &one, "for you", &two]);
    assert_eq!(live.all().last(), Some(&two));
    world.hub.join(live.identity.id, &topics(&["more"])).unwrap();
    world.publish(&["more"], "3");
    broadcast(&world);
    assert!(matches!(&live.all()[..], [one] if one.starts_with("3 #")), "a topic that it joins, and no more");
    assert_eq!((world.hub.count(None), world.hub.count(Some("run"))), (2, 2));
}

#[test]
fn a_run_is_complete_and_resumed_whatever_broadcasts_are_lost() {
    let world = begun();
    let first = world.publish(&["run"], "1");
    broadcast(&world);
    let second = world.publish(&["run"], "2");
    let newcomer = world.subscribe(&watching("run"));
    assert_eq!(newcomer.poll().1[0].data, "", "it is complete");
    let bare = world.subscribe(&Request { no_control: true, ..watching("run") });
    assert_eq!((bare.recovered(), bare.all()[1].clone()), (None, format!("1 #{first}")), "no gap");
    let back = Request { last_event_id: Some(world.id(first)), ..watching("run") };
    let back = world.subscribe(&back);
    assert_eq!(back.recovered(), Some(true));
    assert_eq!(back.all(), [format!("stream-open #{first}"), format!("2 #{second}")]);
    let other = world.subscribe(&all_past(&["run"]));
    assert_eq!(other.poll().1[0].data, r#"{"complete":false}"#, "it would get broadcasts as well");
}

#[test]
fn a_stream_that_goes_to_another_reader_gets_no_pending_broadcast() {
    let one = begun();
    let other = World::of(&one.hub);
    let watcher = one.subscribe(&watching("run"));
    one.hub.broadcast(draft("to all")).unwrap();
    let pending = one.publish(&["run"], "pending");
    let moved = one.hub.transfer(&one.reader, &other.reader, &watcher.identity, GroupId(7)).unwrap();
    let moved = other.stream_of(moved);
    one.hub.broadcast(draft("to all")).unwrap();
    other.drain();
    assert_eq!(moved.all()[1..], [format!("pending #{pending}")]);
    assert_eq!(moved.take(), Taken::Nothing);
}

#[test]
fn a_gap_that_is_fetched_has_the_runs_events_only() {
    let mut stream = Stream::default();
    stream.publish(&["run"], "e1");
    stream.publish(&[], "to all");
    stream.publish(&["run"], "e3");
    let mut worker = Worker::begun(config(), &stream, 0);
    worker.world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    let back = |follows_run| Request { last_event_id: Some("1-0".into()), follows_run, ..all_past(&["run"]) };
    let (watcher, other) = (worker.world.subscribe(&back(true)), worker.world.subscribe(&back(false)));
    stream.publish(&[], "live, to all");
    worker.follow(&stream, 10);
    worker.world.drain();
    let (mut run, mut all) = (seen(&watcher), seen(&other));
    while worker.open() > 0 {
        worker.answer(&stream, 0);
        run.extend(seen(&watcher));
        all.extend(seen(&other));
    }
    assert_eq!(run, ["stream-open #1-0", "e3 #3-0"]);
    assert_eq!(all, ["stream-open #1-0", "to all #2-0", "e3 #3-0", "live, to all #4-0"]);
}

#[test]
fn a_watcher_resumes_however_many_entries_of_others_followed() {
    // More than a hub remembers the ids of, and than the log keeps.
    const OTHERS: usize = (1 << 16) + 10;
    let mut stream = Stream::default();
    let mut worker = Worker::begun(config(), &stream, 0);
    worker.world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    stream.publish(&["run"], "e1");
    stream.publish(&["run"], "e2");
    (0..OTHERS).for_each(|_| _ = stream.publish(&["other"], "x"));
    worker.follow(&stream, OTHERS + 2);
    stream.trim(1);
    let back = Request { last_event_id: Some("1-0".into()), ..watching("run") };
    let back = worker.world.subscribe(&back);
    assert_eq!((worker.open(), back.recovered()), (0, Some(true)), "nothing has to be asked");
    assert_eq!(seen(&back), ["stream-open #1-0", "e2 #2-0"]);
    let between = Request { last_event_id: Some("1-7".into()), ..watching("run") };
    let between = worker.world.subscribe(&between);
    worker.answer_all(&stream);
    assert_eq!(between.recovered(), Some(false), "no id of the run");
}

/// Nothing would ever come: it comes back, and learns that there is no such run.
#[test]
fn the_stream_of_a_watcher_ends_whose_run_is_gone_before_it_begins() {
    let world = begun();
    world.publish(&["run"], "1");
    world.end("run");
    world.advance(KEEP);
    let (gone, last) = (watching("run"), Some(world.id(1)));
    let back = Request { last_event_id: last, ..watching("run") };
    let bare = Request { no_control: true, ..watching("run") };
    for late in [gone, back, bare] {
        let late = world.subscribe(&late);
        world.drain();
        assert!(!late.all().iter().any(|seen| seen.starts_with("1 ")));
        assert_eq!(late.take(), Taken::End);
        assert_eq!(late.closed(), Some("ended"));
    }
    world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    let next = world.live_with(&watching("run"));
    world.publish(&["run"], "2");
    world.drain();
    assert_eq!((next.all().len(), next.closed()), (1, None));
}

#[test]
fn a_watcher_that_waits_for_the_broker_ends_if_its_run_is_gone_when_it_is_resolved() {
    for begins_again in [false, true] {
        let stream = Stream::default();
        let mut worker = Worker::new(config());
        let watcher = worker.world.subscribe(&watching("run"));
        later(&worker, &watcher);
        worker.begin(&stream, 10);
        let topic = Topic::new("run").unwrap();
        let life = |ms, step| (StreamId { ms, seq: 0 }, Letter::Life { topic: topic.clone(), step });
        let begin = || Step::Begin { keep: Duration::ZERO };
        let end = Step::End { keep: Duration::ZERO, ending: Ending::ENDED };
        worker.world.hub.deliver(vec![life(90_000, begin()), life(90_001, end)]);
        worker.world.stat("topics");
        if begins_again {
            worker.world.hub.deliver(vec![life(90_002, begin())]);
        }
        worker.answer_all(&stream);
        worker.world.drain();
        watcher.all();
        assert_eq!(watcher.take() == Taken::End, !begins_again);
        assert_eq!(watcher.closed(), (!begins_again).then_some("ended"));
    }
}

/// What its client holds is void, and it gets all of the run that has the name now.
#[test]
fn an_id_from_before_the_run_is_that_of_another_run() {
    let world = begun();
    let first = world.publish(&["run"], "1");
    let end = world.end("run");
    world.advance(KEEP);
    world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    let began = world.live_with(&watching("run")).identity;
    assert!(began.closed.get().is_none());
    let second = world.publish(&["run"], "2");
    let back = |seq| Request { last_event_id: Some(world.id(seq)), ..watching("run") };
    for seq in [first, end] {
        let back = world.subscribe(&back(seq));
        assert_eq!(back.recovered(), Some(false));
        let told = back.all();
        assert!(told[1].starts_with("stream-reset {\"reason\":\"evicted\""), "{told:?}");
        assert_eq!(told[2], format!("2 #{second}"));
    }
    let back = world.subscribe(&back(end + 1));
    assert_eq!((back.recovered(), back.all().len()), (Some(true), 2), "where the run begins");
}

#[test]
fn an_id_of_another_run_is_known_in_the_brokers_log() {
    let mut stream = Stream::default();
    stream.begin_run("run");
    let first = stream.publish(&["run"], "1");
    stream.publish(&["run"], "2");
    stream.end("run");
    stream.begin_run("run");
    stream.publish(&["run"], "anew");
    let back = Request { last_event_id: Some(format!("{}-0", first.ms)), ..watching("run") };
    let worker = Worker::begun(config(), &stream, 100);
    let watcher = worker.world.subscribe(&back);
    let told = [r#"stream-reset {"reason":"evicted","requested":"2-0"} #5-0"#, "anew #6-0"];
    assert_eq!((worker.open(), &seen(&watcher)[1..]), (0, &told.map(str::to_owned)[..]));

    // A process that follows the run from the middle on learns of its beginning with the gap that it fetches.
    let mut late = Worker::begun(config(), &stream, 0);
    late.world.hub.adopt_run(&Topic::new("run").unwrap());
    let watcher = late.world.subscribe(&back);
    let mut all = Vec::new();
    while late.open() > 0 {
        late.answer(&stream, 0);
        all.extend(seen(&watcher));
    }
    let told = [r#"stream-reset {"reason":"evicted","requested":null}"#, "anew #6-0"];
    assert_eq!(all, [&["stream-open #2-0", "2 #3-0"], &told[..]].concat());
}

#[test]
fn a_gap_is_fetched_to_its_end_although_the_name_is_free_by_then() {
    for follows_run in [false, true] {
        let mut stream = Stream::default();
        stream.begin_run("run");
        for part in ["1", "2", "3", "4", "5"] {
            stream.publish(&["run"], part);
        }
        let mut worker = Worker::begun(config(), &stream, 0);
        worker.world.hub.adopt_run(&Topic::new("run").unwrap());
        let back = Request { last_event_id: Some("2-0".into()), follows_run, ..all_past(&["run"]) };
        let watcher = worker.world.subscribe(&back);
        worker.answer(&stream, 0);
        worker.answer(&stream, 0);
        let mut all = seen(&watcher);
        stream.end("run");
        worker.follow(&stream, 10);
        worker.world.drain();
        worker.world.advance(KEEP);
        assert_eq!(worker.world.hub.is_followed("run"), Some(false), "the name is free");
        while worker.open() > 0 {
            worker.answer(&stream, 0);
            all.extend(seen(&watcher));
        }
        assert_eq!(all[..5], ["stream-open #2-0", "2 #3-0", "3 #4-0", "4 #5-0", "5 #6-0"], "{follows_run}");
        assert_eq!(watcher.take(), Taken::Finished);
    }
}

#[test]
fn a_watcher_reads_a_run_to_its_end_although_the_name_is_free_by_then() {
    let world = begun();
    for _ in 0..600 {
        world.publish(&["run"], "old");
    }
    let watchers = [world.subscribe(&watching("run")), world.subscribe(&watching("run"))];
    world.hub.finish(&Topic::new("run").unwrap(), Duration::ZERO, &Ending::ENDED).unwrap();
    world.drain();
    assert_eq!(world.hub.is_followed("run"), Some(false));
    world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    let next = world.subscribe(&watching("run"));
    assert_eq!(next.poll().1[0].data, "", "it is complete");
    world.publish(&["run"], "new");
    world.drain();
    for (at, watcher) in watchers.iter().enumerate() {
        assert_eq!(world.stat("history_events"), 601, "{at}");
        let seen = read(&world, watcher);
        assert_eq!((seen.len(), seen[1..601].iter().all(|seen| seen.starts_with("old #"))), (602, true));
    }
    assert_eq!(world.stat("history_events"), 1);
    assert!(matches!(&next.all()[..], [new] if new.starts_with("new #")));
}

/// The name may be free at once, and that of another run.
#[test]
fn a_run_whose_topic_the_application_ends_was_stopped_and_disturbs_no_other() {
    let world = World::new(config());
    let topic = Topic::new("run").unwrap();
    let run = world.hub.begin_whole(&topic).unwrap();
    let ended = || Error::TopicEnded { topic: "run".into() };
    let part = |run| world.hub.publish_to_run(&topic, run, draft("part")).map(drop);
    let done = Ending { state: EndState::Done, error: None };
    let finish = |run| world.hub.finish_run(&topic, run, KEEP, &done).map(drop);
    assert_eq!(part(run), Ok(()));
    let watcher = world.live_with(&watching("run"));
    world.hub.finish(&topic, Duration::ZERO, &Ending::ENDED).unwrap();
    world.drain();
    assert!(read(&world, &watcher)[0].starts_with("stream-end {\"state\":\"stopped\"}"));
    assert_eq!((part(run), finish(run)), (Err(ended()), Err(ended())));
    let next = world.hub.begin_whole(&topic).unwrap();
    assert_eq!((part(run), finish(run)), (Err(ended()), Err(ended())));
    assert_eq!((part(next), finish(next)), (Ok(()), Ok(())));
}

#[test]
fn a_break_of_the_log_is_told_to_watchers_too() {
    let mut stream = Stream::default();
    stream.publish(&["run"], "e1");
    let mut worker = Worker::begun(config(), &stream, 100);
    worker.world.hub.begin_whole(&Topic::new("run").unwrap()).unwrap();
    let watcher = worker.world.live_with(&watching("run"));
    stream.empty(beginning(2));
    stream.publish(&["run"], "anew");
    worker.follow(&stream, 10);
    worker.world.drain();
    let told = seen(&watcher);
    assert_eq!(told.last().map(String::as_str), Some("anew #3-0"), "{told:?}");
    assert!(told.iter().any(|event| event.starts_with("stream-reset")), "{told:?}");
}
