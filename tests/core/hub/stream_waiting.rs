//! A hub whose order is a broker's stream, while it asks the broker where a client starts.

use sse_hub::change::Who;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::ids::GroupId;

use crate::stream::{later, one, resuming, seen, undecided};
use crate::stream_world::{Sent, Worker};
use crate::support::{self, HEARTBEAT, SECOND, World, config, request};

#[test]
fn ids_beyond_what_is_remembered_are_asked_for() {
    let (mut stream, mut worker) = one(1);
    for _ in 0..70_000 {
        stream.publish(&["u"], "x");
        worker.follow(&stream, 1);
    }
    stream.publish(&["t"], "e2");
    worker.follow(&stream, 10);
    let client = worker.world.subscribe(&resuming(&["t"], "1-0"));
    assert_eq!(worker.open(), 1);
    stream.trim(10);
    worker.answer_all(&stream);
    assert_eq!(client.recovered(), Some(false));
}

#[test]
fn heartbeats_go_to_clients_that_wait_for_the_broker() {
    let (stream, mut worker, client) = undecided();
    later(&worker, &client);
    worker.world.drain();
    assert_eq!(seen(&client), ["stream-open"]);
    for _ in 0..3 {
        worker.world.pass(HEARTBEAT + SECOND);
        assert_eq!(seen(&client), [""], "a comment");
    }
    worker.begin(&stream, 10);
    worker.answer_all(&stream);
    worker.world.drain();
    seen(&client);
    worker.world.pass(2 * HEARTBEAT + 2 * SECOND);
    assert_eq!(worker.world.stat("heartbeats"), 4, "not twice as many after it was settled");
}

#[test]
fn a_client_that_waits_for_the_broker_can_be_disconnected() {
    for who in [Who::User("ann".into()), Who::All, Who::Group(GroupId(3))] {
        let (_, worker, client) = undecided();
        later(&worker, &client);
        assert_eq!(worker.world.hub.disconnect(who, CloseReason::Shutdown), 1);
        let closed = worker.world.drain();
        assert_eq!(closed.len(), 1);
        assert_eq!(seen(&client), ["stream-open"]);
        assert_eq!((client.closed(), worker.world.hub.count(None)), (Some("shutdown"), 0));
    }
    // One that came later is not meant, whether it waits or not.
    let (_, worker, client) = undecided();
    worker.world.hub.disconnect(Who::User("ann".into()), CloseReason::Shutdown);
    let other = worker.world.subscribe(&Request { user: Some("ann".into()), ..request(&["t"]) });
    worker.world.drain();
    assert_eq!((client.closed(), other.closed()), (Some("shutdown"), None));
}

#[test]
fn a_client_that_waits_for_the_broker_reaches_its_max_age() {
    let worker = Worker::new(config());
    let aged = Request { max_age: Some(5 * SECOND), ..request(&["t"]) };
    let client = worker.world.subscribe(&aged);
    later(&worker, &client);
    worker.world.pass(6 * SECOND);
    assert_eq!(client.closed(), Some("max_age"));
}

#[test]
fn a_client_that_waits_for_the_broker_may_join_and_leave_and_be_transferred() {
    let (mut stream, mut worker, client) = undecided();
    let other = World::of(&worker.world.hub);
    let hub = worker.world.hub.clone();
    hub.join(client.identity.id, &support::topics(&["u"])).unwrap();
    hub.leave(client.identity.id, &support::topics(&["t"]));
    worker.world.drain();
    let moved = hub.transfer(&worker.world.reader, &other.reader, &client.identity, GroupId(7)).unwrap();
    let client = other.stream_of(moved);
    worker.begin(&stream, 10);
    worker.answer_all(&stream);
    stream.publish(&["t"], "not its own any more");
    stream.publish(&["u"], "its own");
    worker.follow(&stream, 10);
    other.drain();
    assert_eq!(seen(&client), ["stream-open #0-1000000", "its own #2-0"]);
    assert_eq!(hub.disconnect(Who::Group(GroupId(7)), CloseReason::Shutdown), 1);
    assert_eq!(other.drain().len(), 1);
}

#[test]
fn an_event_sent_to_a_client_that_waits_for_the_broker_arrives() {
    // A newcomer, one that is in history, one that is lost, and one whose past is fetched.
    for (id, kept, want) in [
        (None, 100, vec!["stream-open #4-0", "mail", "e5 #6-0"]),
        (Some("9-9"), 100, vec!["mail", "e5 #6-0"]),
        (Some("1-0"), 0, vec!["stream-open #1-0", "e2 #2-0", "e3 #3-0", "e4 #4-0", "mail", "e5 #6-0"]),
    ] {
        let (mut stream, _) = one(4);
        let mut worker = Worker::new(config());
        let asking = Request { last_event_id: id.map(Into::into), ..request(&["t"]) };
        let client = worker.world.subscribe(&asking);
        worker.begin(&stream, kept);
        if id.is_none() {
            worker.answer_all(&stream);
        }
        stream.add(Sent::One(client.identity.name().to_string(), "mail".into()));
        worker.follow(&stream, 10);
        worker.world.drain();
        let mut all = Vec::new();
        for _ in 0..10 {
            worker.answer_all(&stream);
            all.extend(seen(&client));
        }
        stream.publish(&["t"], "e5");
        worker.follow(&stream, 10);
        worker.world.drain();
        all.extend(seen(&client));
        all.retain(|event| want.contains(&event.as_str()));
        assert_eq!(all, want, "{id:?}");
    }
}

#[test]
fn a_newcomer_whose_stream_opened_early_learns_that_it_began_later() {
    let (mut stream, mut worker, client) = undecided();
    later(&worker, &client);
    later(&worker, &client);
    worker.world.drain();
    assert_eq!(seen(&client), ["stream-open"]);
    stream.publish(&["t"], "by another process");
    worker.begin(&stream, 10);
    worker.answer_all(&stream);
    worker.world.drain();
    assert_eq!(seen(&client), [r#"stream-reset {"reason":"broker","requested":null} #1-0"#]);
    assert_eq!(client.recovered(), None);
}

#[test]
fn one_that_left_is_not_waited_for() {
    let (stream, mut worker, client) = undecided();
    assert!(client.leave());
    worker.begin(&stream, 0);
    worker.answer_all(&stream);
    assert_eq!((worker.open(), worker.world.hub.count(None)), (0, 0));
    // Nor one that left while its past was fetched.
    let (stream, _) = one(6);
    let mut worker = Worker::begun(config(), &stream, 0);
    let client = worker.world.subscribe(&resuming(&["t"], "1-0"));
    worker.answer(&stream, 0);
    worker.answer(&stream, 0);
    seen(&client);
    client.leave();
    worker.answer_all(&stream);
    assert_eq!(worker.open(), 0);
}
