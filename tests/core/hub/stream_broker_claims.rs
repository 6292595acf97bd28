//! Places among a user's streams that newcomers of several processes claim at once.

use std::sync::Arc;

use sse_hub::broker::{Answered, Broker};
use sse_hub::config::Config;
use sse_hub::hub::{Request, name_in_presence};
use sse_hub::ids::SubscriberId;
use sse_hub::outcome::Failure;

use crate::memory_store::{Memory, MemoryStore};
use crate::stream_broker::{Worker, until};
use crate::support::{MS, config, request};

fn worker(store: &MemoryStore) -> Worker {
    Worker::of(store, Config { heartbeat: None, max_per_user: Some(2), ..config() })
}

fn begin(worker: &Worker, limit: usize) -> (SubscriberId, Answered<bool>) {
    let (id, user) = (SubscriberId::random(), Arc::from("ann"));
    worker.world.hub.begin_claim(id, &user);
    (id, worker.broker.claim(user, id, limit))
}

fn wait(answered: Answered<bool>) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(answered).expect("an answer")
}

fn of_ann(claim: Option<SubscriberId>) -> Request {
    Request { user: Some("ann".into()), claim, ..request(&["t"]) }
}

fn present(store: &MemoryStore) -> usize {
    store.with(|memory| memory.present(&name_in_presence("ann")).len())
}

#[test]
fn claims_of_several_processes_at_once_never_exceed_the_limit() {
    let store = MemoryStore::default();
    store.with(|memory| memory.delay = MS);
    let workers = [worker(&store), worker(&store), worker(&store)];
    let begun: Vec<_> = (0..30).map(|n| (n % 3, begin(&workers[n % 3], 2))).collect();
    let mut granted = Vec::new();
    for (of, (id, answered)) in begun {
        if wait(answered) == Ok(true) {
            granted.push((of, id));
        } else {
            workers[of].world.hub.drop_claim(id);
        }
    }
    assert_eq!(granted.len(), 2, "neither more nor fewer");
    for worker in &workers {
        assert!(!worker.world.hub.has_claim(SubscriberId(0)));
        assert_eq!(wait(begin(worker, 2).1), Ok(false));
    }
    // One becomes a stream, and the other is not wanted any more.
    let (of, id) = granted[0];
    let stream = workers[of].world.subscribe(&of_ann(Some(id)));
    assert_eq!(stream.identity.id, id);
    let (of, dropped) = granted[1];
    workers[of].world.hub.drop_claim(dropped);
    until(|| present(&store) == 1);
    assert_eq!(wait(begin(&workers[0], 2).1), Ok(true));
    assert!(stream.leave());
    until(|| present(&store) == 1);
}

#[test]
fn a_claim_that_is_dropped_before_its_answer_is_void() {
    let store = MemoryStore::default();
    store.with(|memory| memory.delay = 5 * MS);
    let worker = worker(&store);
    let (id, answered) = begin(&worker, 1);
    worker.world.hub.drop_claim(id);
    assert_eq!(wait(answered), Ok(false));
    until(|| wait(begin(&worker, 1).1) == Ok(true));
}

#[test]
fn a_granted_claim_outlives_the_loss_of_the_table_and_counts_without_a_stream() {
    let store = MemoryStore::default();
    let (a, b) = (worker(&store), worker(&store));
    let (id, answered) = begin(&a, 1);
    assert_eq!(wait(answered), Ok(true));
    store.with(Memory::forget_workers);
    let (other, answered) = begin(&a, 1);
    assert_eq!(wait(answered), Ok(false), "the table is written anew with the claim in it");
    a.world.hub.drop_claim(other);
    assert_eq!(wait(begin(&b, 1).1), Ok(false));
    // A subscriber whose claim is not held is counted like any other, and has an id of its own.
    let (second, third) = (a.world.subscribe(&of_ann(Some(other))), a.world.subscribe(&of_ann(None)));
    assert_ne!(second.identity.id, other);
    assert!(a.world.try_subscribe(&of_ann(Some(other))).is_err());
    let claimed = a.world.subscribe(&of_ann(Some(id)));
    assert_eq!((claimed.identity.id, a.world.hub.has_claim(id)), (id, false));
    assert!(third.leave());
}
