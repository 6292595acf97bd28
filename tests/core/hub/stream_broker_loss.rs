//! A broker over a store in memory that loses entries: what is a gap, and which clients are reset.

use crate::memory_store::MemoryStore;
use crate::stream_broker::{Client, Worker, until};

/// A worker that has read one entry, as its client has, and reads no more until the store lets it.
fn after_one() -> (MemoryStore, Worker, Client) {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    worker.publish("1").unwrap();
    client.up_to(&worker, "1");
    store.with(|memory| memory.is_held = true);
    (store, worker, client)
}

#[test]
fn an_entry_that_is_deleted_before_it_is_read_is_a_gap() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    store.with(|memory| memory.is_held = true);
    for data in ["1", "2", "3"] {
        worker.publish(data).unwrap();
    }
    store.with(|memory| {
        memory.delete(1);
        memory.is_held = false;
    });
    assert_eq!(client.up_to(&worker, "3"), ["1", "stream-reset", "3"]);
    assert!(worker.log.0.lock().iter().any(|text| text.contains("are gone")));
}

#[test]
fn gaps_in_a_fetched_replay_are_announced_in_their_place() {
    let store = MemoryStore::default();
    let worker = Worker::without_history(&store);
    let mut client = worker.live();
    // Pages grow with what was read: all that is missed comes in one.
    for n in 0..300 {
        worker.publish(&format!("before {n}")).unwrap();
    }
    let last = worker.publish("1").unwrap().unwrap().to_string();
    for n in 2..=9 {
        worker.publish(&n.to_string()).unwrap();
    }
    client.up_to(&worker, "9");
    // Of the newest nine: 8, 6 and 3.
    store.with(|memory| [1, 2, 4].map(|from_end| memory.delete(from_end)));
    let mut back = worker.resume(Some(&last));
    let seen = back.up_to(&worker, "9");
    assert_eq!(seen, ["2", "stream-reset", "4", "5", "stream-reset", "7", "stream-reset", "9"]);
}

#[test]
fn a_client_that_is_ahead_of_its_worker_and_has_missed_something_is_not_sent_back() {
    let (store, worker, mut client) = after_one();
    let ids = ["2", "3", "4", "5"].map(|data| worker.publish(data).unwrap().unwrap().to_string());
    let asked = store.with(|memory| {
        memory.trim(1);
        memory.asked_for_entries
    });
    let mut back = worker.resume(Some(&ids[1]));
    until(|| store.with(|memory| memory.asked_for_entries > asked));
    store.with(|memory| memory.is_held = false);
    assert_eq!(client.up_to(&worker, "5"), ["stream-reset", "5"]);
    back.until(&worker, |client| !client.seen.is_empty());
    worker.publish("6").unwrap();
    assert_eq!(back.up_to(&worker, "6"), ["stream-reset", "6"]);
}

#[test]
fn a_log_that_is_emptied_is_a_gap() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    worker.publish("1").unwrap();
    client.up_to(&worker, "1");
    store.with(super::memory_store::Memory::empty);
    worker.publish("2").unwrap();
    assert_eq!(client.up_to(&worker, "2"), ["stream-reset", "2"]);
}

#[test]
fn entries_in_the_wrong_order_are_not_taken_for_whole() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    store.with(|memory| memory.is_held = true);
    for data in ["1", "2", "3", "4"] {
        worker.publish(data).unwrap();
    }
    store.with(|memory| {
        memory.is_disordered = true;
        memory.is_held = false;
    });
    assert_eq!(client.up_to(&worker, "4")[0], "stream-reset");
}

#[test]
fn an_end_that_was_read_and_is_lost_is_a_gap_and_the_log_goes_on() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let (mut one, mut two) = (a.live(), b.live());
    for data in ["1", "2", "3"] {
        a.publish(data).unwrap();
    }
    one.up_to(&a, "3");
    two.up_to(&b, "3");
    assert_eq!(store.with(|memory| memory.lose_tail(2, false)), 2);
    until(|| !a.is_connected() || !a.log.0.lock().is_empty());
    until(|| a.is_connected() && b.is_connected());
    one.until(&a, |client| client.seen.contains(&"stream-reset".into()));
    a.publish("4").unwrap();
    assert_eq!(one.up_to(&a, "4"), ["stream-reset", "4"]);
    assert_eq!(two.up_to(&b, "4"), ["stream-reset", "4"]);
}

#[test]
fn an_end_that_was_acknowledged_here_and_never_read_is_a_gap() {
    let (store, worker, mut client) = after_one();
    for data in ["2", "3"] {
        worker.publish(data).unwrap();
    }
    store.with(|memory| {
        memory.lose_tail(2, false);
        memory.is_held = false;
    });
    until(|| worker.is_connected() && !worker.log.0.lock().is_empty());
    worker.publish("4").unwrap();
    assert_eq!(client.up_to(&worker, "4"), ["stream-reset", "4"]);
}

#[test]
fn what_was_acknowledged_is_missed_also_when_the_log_has_gone_on() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let mut client = a.live();
    until(|| b.is_connected());
    a.publish("1").unwrap();
    client.up_to(&a, "1");
    store.with(|memory| memory.is_held = true);
    a.publish("2").unwrap();
    store.with(|memory| memory.lose_tail(1, false));
    // Its id is greater than that of the lost one.
    until(|| b.publish("3").is_ok());
    store.with(|memory| memory.is_held = false);
    assert_eq!(client.up_to(&a, "3"), ["stream-reset", "3"]);
}

#[test]
fn a_copy_that_takes_over_resets_also_clients_that_had_read_none_of_what_it_lost() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let (mut stays, mut leaves) = (b.live(), b.live());
    a.publish("1").unwrap();
    stays.up_to(&b, "1");
    leaves.up_to(&b, "1");
    let last = leaves.last.clone().unwrap();
    leaves.stream.leave();
    store.with(|memory| memory.is_held = true);
    a.publish("2").unwrap();
    store.with(|memory| {
        memory.lose_tail(1, true);
        memory.is_held = false;
    });
    until(|| b.publish("3").is_ok());
    assert_eq!(stays.up_to(&b, "3"), ["stream-reset", "3"]);
    let mut back = b.resume(Some(&last));
    assert!(back.up_to(&b, "3").contains(&"stream-reset".into()), "also who was away");
    let elsewhere = Worker::new(&store);
    until(|| elsewhere.is_connected());
    let mut back = elsewhere.resume(Some(&last));
    assert!(back.up_to(&elsewhere, "3").contains(&"stream-reset".into()), "also at a new process");
}

#[test]
fn a_copy_that_cannot_say_so_resets_all_the_same() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    store.with(|memory| {
        memory.refuses_gaps = true;
        memory.lose_tail(0, true);
    });
    client.until(&worker, |client| client.seen == ["stream-reset"]);
}
