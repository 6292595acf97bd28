//! A hub whose order is a broker's stream, step by step.

use std::time::Duration;

use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::ids::{GroupId, StreamId};
use sse_hub::queue::OverflowPolicy;

use crate::stream_world::{Sent, Stream, Worker, beginning};
use crate::support::{self, MS, SECOND, World, config, request};

pub fn resuming(names: &[&str], id: &str) -> Request {
    Request { last_event_id: Some(id.into()), ..request(names) }
}

/// What a stream gives, with whole ids.
pub fn seen(stream: &support::Stream) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let (_, seen) = stream.poll();
        if seen.is_empty() {
            return all;
        }
        for event in seen {
            let id = event.id.map(|id| format!("#{id}"));
            let parts = [Some(event.name), Some(event.data), id].into_iter().flatten();
            all.push(parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
        }
    }
}

/// A stream with so many entries, `e1` at 1-0 and so on, and a worker that has them.
pub fn one(entries: usize) -> (Stream, Worker) {
    let mut stream = Stream::default();
    for number in 1..=entries {
        stream.publish(&["t"], &format!("e{number}"));
    }
    let worker = Worker::begun(config(), &stream, 100);
    (stream, worker)
}

pub fn undecided() -> (Stream, Worker, support::Stream) {
    let stream = Stream::default();
    let worker = Worker::new(config());
    let client =
        worker.world.subscribe(&Request { user: Some("ann".into()), group: GroupId(3), ..request(&["t"]) });
    (stream, worker, client)
}

pub fn later(worker: &Worker, client: &support::Stream) {
    assert!(worker.world.hub.resolve(client.identity.id, sse_hub::hub::Verdict::Later).is_none());
}

#[test]
fn what_the_stream_keeps_is_history_from_the_beginning() {
    let (mut stream, mut worker) = one(3);
    let newcomer = worker.world.subscribe(&request(&["t"]));
    let curious = worker.world.subscribe(&Request { past: Some(Past::Last(2)), ..request(&["t"]) });
    let back = worker.world.subscribe(&resuming(&["t"], "1-0"));
    assert_eq!(worker.open(), 0, "nothing has to be asked");
    stream.publish(&["t"], "e4");
    worker.follow(&stream, 10);
    worker.world.drain();
    assert_eq!(seen(&newcomer), ["stream-open #3-0", "e4 #4-0"]);
    assert_eq!(seen(&curious), ["stream-open #1-0", "e2 #2-0", "e3 #3-0", "e4 #4-0"]);
    assert_eq!(seen(&back), ["stream-open #1-0", "e2 #2-0", "e3 #3-0", "e4 #4-0"]);
    assert_eq!(back.recovered(), Some(true));
}

#[test]
fn what_this_process_lacks_is_fetched_and_live_events_follow() {
    let (mut stream, _) = one(6);
    let mut worker = Worker::begun(config(), &stream, 1);
    let client = worker.world.subscribe(&resuming(&["t"], "2-0"));
    stream.publish(&["t"], "e7");
    worker.follow(&stream, 10);
    assert!(worker.answer(&stream, 0) && worker.answer(&stream, 0), "asked, and settled");
    stream.publish(&["t"], "e8");
    worker.follow(&stream, 10);
    worker.world.drain();
    assert_eq!(seen(&client), ["stream-open #2-0"], "nothing overtakes what is fetched");
    worker.answer(&stream, 0);
    assert_eq!(seen(&client), ["e3 #3-0", "e4 #4-0"]);
    worker.answer(&stream, 0);
    assert_eq!(seen(&client), ["e5 #5-0", "e6 #6-0"]);
    worker.answer(&stream, 0);
    assert_eq!(seen(&client), ["e7 #7-0", "e8 #8-0"]);
    assert_eq!((client.recovered(), worker.open()), (Some(true), 0));
}

#[test]
fn what_comes_while_more_is_fetched_than_the_queue_takes_is_read_from_history() {
    let (mut stream, _) = one(4);
    let mut worker = Worker::begun(config(), &stream, 0);
    let client = worker.world.subscribe(&resuming(&["t"], "1-0"));
    worker.answer(&stream, 0);
    worker.answer(&stream, 0);
    for number in 5..=20 {
        stream.publish(&["t"], &format!("e{number}"));
    }
    worker.follow(&stream, 100);
    worker.world.drain();
    let mut all = seen(&client);
    while worker.open() > 0 {
        worker.answer(&stream, 0);
        all.extend(seen(&client));
    }
    let want: Vec<String> = (2..=20).map(|number| format!("e{number} #{number}-0")).collect();
    assert_eq!(all[1..], want);
}

#[test]
fn a_missing_piece_is_announced_in_its_place() {
    let (mut stream, _) = one(6);
    let mut worker = Worker::begun(config(), &stream, 0);
    let client = worker.world.subscribe(&resuming(&["t"], "1-0"));
    worker.answer(&stream, 0);
    worker.answer(&stream, 0);
    assert_eq!(seen(&client), ["stream-open #1-0"]);
    worker.answer(&stream, 0);
    assert_eq!(seen(&client), ["e2 #2-0", "e3 #3-0"]);
    stream.trim(1);
    worker.answer(&stream, 0);
    let told = r#"stream-reset {"reason":"evicted","requested":null}"#;
    assert_eq!(seen(&client), [told, "e6 #6-0"]);
    assert_eq!(worker.world.stat("resets"), 1);
}

#[test]
fn an_id_that_the_stream_cannot_go_on_from_is_reset() {
    let (mut stream, mut worker) = one(6);
    stream.trim(2);
    let mut fresh = Worker::begun(config(), &stream, 100);
    let evicted = fresh.world.subscribe(&resuming(&["t"], "2-0"));
    let ahead = fresh.world.subscribe(&resuming(&["t"], "9-0"));
    let between = fresh.world.subscribe(&resuming(&["t"], "5-7"));
    let unknown = fresh.world.subscribe(&resuming(&["t"], "what?"));
    fresh.answer_all(&stream);
    for (client, reason, requested) in [
        (evicted, "evicted", "2-0"),
        (ahead, "ahead", "9-0"),
        (between, "evicted", "5-7"),
        (unknown, "unknown", "what?"),
    ] {
        let reset = format!(r#"stream-reset {{"reason":"{reason}","requested":"{requested}"}} #6-0"#);
        assert_eq!(seen(&client), ["stream-open", &reset]);
        assert_eq!(client.recovered(), Some(false));
    }
    // The other process has it all.
    let whole = worker.world.subscribe(&resuming(&["t"], "2-0"));
    worker.answer_all(&stream);
    assert_eq!(seen(&whole).len(), 5);
}

#[test]
fn a_client_from_a_faster_worker_waits_until_this_one_has_read_as_far() {
    let (mut stream, mut worker) = one(1);
    stream.publish(&["t"], "e2");
    stream.publish(&["t"], "e3");
    let client = worker.world.subscribe(&resuming(&["t"], "2-0"));
    worker.answer_all(&stream);
    assert_eq!(seen(&client), Vec::<String>::new());
    worker.follow(&stream, 10);
    worker.answer_all(&stream);
    worker.world.drain();
    assert_eq!(seen(&client), ["stream-open #2-0", "e3 #3-0"], "e2 is not given twice");
}

#[test]
fn a_break_resets_every_client_and_ids_go_on_behind_it() {
    let (mut stream, mut worker) = one(2);
    let client = worker.world.live(&["t"]);
    stream.publish(&["t"], "e3");
    stream.publish(&["t"], "e4");
    stream.trim(1);
    worker.follow(&stream, 10);
    worker.world.drain();
    let told = r#"stream-reset {"reason":"broker","requested":null} #3-0"#;
    assert_eq!(seen(&client), [told, "e4 #4-0"]);
    let back = worker.world.subscribe(&resuming(&["t"], "3-0"));
    assert_eq!(seen(&back), ["stream-open #3-0", "e4 #4-0"]);
}

#[test]
fn a_break_resets_also_a_client_that_drops_events() {
    for overflow in [OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
        let (mut stream, mut worker) = one(1);
        let slow = Request { overflow: Some(overflow), capacity: Some(2), ..request(&["t"]) };
        let client = worker.world.live_with(&slow);
        // Turns in which it does not come back make it one that waits behind a write.
        for number in 2..=10 {
            stream.publish(&["t"], &format!("e{number}"));
            worker.follow(&stream, 10);
            worker.world.turn();
        }
        worker.world.advance(20 * MS);
        for number in 11..=14 {
            stream.publish(&["t"], &format!("e{number}"));
        }
        stream.trim(3);
        worker.follow(&stream, 10);
        worker.world.drain();
        let all = seen(&client);
        let reset = all.iter().position(|event| event.starts_with("stream-reset"));
        assert!(reset.is_some(), "{overflow:?} {all:?}");
    }
}

#[test]
fn a_stream_that_was_emptied_goes_on_with_smaller_ids() {
    let (mut stream, mut worker) = one(5);
    let client = worker.world.live(&["t"]);
    stream.empty(beginning(2));
    stream.losses = 1; // its ids are not those of before
    stream.publish(&["t"], "new");
    assert!(!worker.follow(&stream, 10), "3-1 is not after 5-0");
    worker.check_position(&stream);
    worker.follow(&stream, 10);
    worker.world.drain();
    let told = r#"stream-reset {"reason":"broker","requested":null} #2-1000000"#;
    assert_eq!(seen(&client), [told, "new #3-1"]);
    let old = worker.world.subscribe(&resuming(&["t"], "5-0"));
    worker.answer_all(&stream);
    assert_eq!(old.recovered(), Some(false));
}

#[test]
fn sends_and_kicks_come_in_the_order_of_the_stream() {
    let (mut stream, mut worker) = one(1);
    let client = worker.world.live(&["t"]);
    let name = client.identity.name().to_string();
    stream.publish(&["t"], "before");
    stream.add(Sent::One(name.clone(), "mail".into()));
    stream.add(Sent::One("c-nobody".into(), "not here".into()));
    stream.publish(&["t"], "after");
    stream.add(Sent::Kick(name));
    stream.publish(&["t"], "too late");
    worker.follow(&stream, 10);
    let closed = worker.world.drain();
    assert_eq!(seen(&client), ["before #2-0", "mail", "after #5-0"]);
    assert_eq!(closed[0].1, CloseReason::Kicked("out".into()));
}

#[test]
fn a_reader_that_is_gone_does_not_hold_the_stream_back() {
    let mut small = config();
    small.backlog_bytes = 50;
    let mut stream = Stream::default();
    let mut worker = Worker::begun(small, &stream, 0);
    let other = World::of(&worker.world.hub);
    let stays = worker.world.live(&["t"]);
    other.live(&["t"]);
    for _ in 0..10 {
        stream.publish(&["t"], "x");
    }
    worker.follow(&stream, 100);
    worker.world.drain();
    assert_eq!(seen(&stays).len(), 10);
    assert!(worker.world.hub.is_behind(), "the other has not taken anything");
    worker.world.hub.remove_reader(&other.reader);
    assert!(!worker.world.hub.is_behind());
}

#[test]
fn what_was_there_before_this_process_is_not_kept_longer_than_it_may_be() {
    use sse_hub::clock::Clock;
    let mut aged = config();
    aged.retention.age = Some(10 * SECOND);
    let hub = std::sync::Arc::new(sse_hub::hub::Hub::of_stream(aged, Clock::manual()));
    hub.clock.advance(100 * SECOND);
    let world = World::of(&hub);
    let kept = |ms| sse_hub::broker::letter::Arrived {
        id: StreamId { ms, seq: 0 },
        before: None,
        letter: Ok(sse_hub::broker::letter::Letter::Event {
            to: sse_hub::broker::letter::To::All,
            draft: support::draft(&ms.to_string()),
        }),
    };
    let base = StreamId::default();
    hub.open_log(base, vec![(kept(1), 8 * SECOND), (kept(2), Duration::ZERO)]);
    world.advance(5 * SECOND);
    let client = world.subscribe(&Request { past: Some(Past::All), ..request(&["t"]) });
    assert_eq!(seen(&client), [r#"stream-open {"complete":false} #1-0"#, "2 #2-0"]);
}

#[test]
fn a_worker_that_has_yet_to_notice_a_loss_replays_what_was_lost_and_then_resets() {
    let (mut stream, mut a) = one(3);
    let mut b = Worker::begun(config(), &stream, 100);
    let at_a = a.world.subscribe(&resuming(&["t"], "1-0"));
    assert_eq!(seen(&at_a), ["stream-open #1-0", "e2 #2-0", "e3 #3-0"]);
    stream.lose_tail(2, false);
    a.check_position(&stream);
    a.world.drain();
    let reset = r#"stream-reset {"reason":"broker","requested":null} #1-0"#;
    assert_eq!(seen(&at_a), [reset], "what it held is void");
    let refused = a.world.subscribe(&resuming(&["t"], "3-0"));
    a.answer_all(&stream);
    let refused = seen(&refused);
    assert_eq!(refused[1..], [r#"stream-reset {"reason":"ahead","requested":"3-0"} #1-0"#]);
    // The id is known at the other worker, in whose memory the lost events follow it.
    let at_b = b.world.subscribe(&resuming(&["t"], "1-0"));
    assert_eq!(seen(&at_b), ["stream-open #1-0", "e2 #2-0", "e3 #3-0"]);
    stream.publish(&["t"], "e4");
    b.follow(&stream, 10);
    b.world.drain();
    assert_eq!(seen(&at_b)[0], reset);
}
