//! A broker over a store in memory, with real hubs: following, resuming, the outbox, presence, and what happens when
//! the store loses entries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sse_hub::broker::letter::{Letter, To};
use sse_hub::broker::{Broker, Present};
use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::hub::{Hub, Request};
use sse_hub::outcome::{Failure, Outcome, Sent};
use sse_hub::queue::Capacity;
use sse_hub::stream_broker::{Kept, Observer, StreamBroker};
use sse_hub::subscriber::Taken;

use crate::memory_store::MemoryStore;
use crate::support::{self, MS, World, config, draft, request, topics};

/// The longest that anything takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<String>>>);

impl Observer for Log {
    fn warn(&self, message: String) {
        self.0.lock().push(message);
    }

    fn lagging(&self) {}
}

/// One process.
pub struct Worker {
    pub world: World,
    pub broker: Arc<StreamBroker<MemoryStore>>,
    pub log: Log,
}

impl Worker {
    pub fn new(store: &MemoryStore) -> Self {
        let capacity = Capacity { events: 1000, bytes: 1 << 20 };
        Self::of(store, Config { heartbeat: None, capacity, ..config() })
    }

    /// One that keeps nothing of the past, and has to fetch it.
    pub fn without_history(store: &MemoryStore) -> Self {
        let mut small = config();
        small.retention.count = 0;
        small.heartbeat = None;
        small.capacity = Capacity { events: 1000, bytes: 1 << 20 };
        Self::of(store, small)
    }

    pub fn of(store: &MemoryStore, config: Config) -> Self {
        let kept = Kept { count: 100, age: None, min_age: Duration::ZERO, bytes: 1 << 20 };
        let hub = Arc::new(Hub::of_stream(config, Clock::real()));
        let log = Log::default();
        let broker = StreamBroker::start(&hub, store.clone(), kept, Box::new(log.clone())).unwrap();
        Self { world: World::of(&hub), broker, log }
    }

    pub fn post(&self, data: &str) -> Arc<Outcome> {
        let to = To::Topics(topics(&["t"]).into());
        self.world.hub.post(Letter::Event { to, draft: draft(data) }).unwrap()
    }

    /// Publish, and wait for the outcome.
    pub fn publish(&self, data: &str) -> Sent {
        self.post(data).wait_until(Instant::now() + PATIENCE).expect("an outcome")
    }

    pub fn subscribe(&self) -> Client {
        self.resume(None)
    }

    pub fn resume(&self, last: Option<&str>) -> Client {
        let last_event_id = last.map(Into::into);
        let stream = self.world.subscribe(&Request { last_event_id, ..request(&["t"]) });
        Client { stream, seen: Vec::new(), last: last.map(Into::into), has_ended: false }
    }

    /// A client that knows its place.
    pub fn live(&self) -> Client {
        let mut client = self.subscribe();
        client.until(self, |client| client.last.is_some());
        client.seen.clear();
        client
    }

    pub fn is_connected(&self) -> bool {
        self.broker.is_connected()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.broker.stop();
    }
}

pub struct Client {
    pub stream: support::Stream,
    /// Data of events; names of control events.
    pub seen: Vec<String>,
    pub last: Option<String>,
    pub has_ended: bool,
}

impl Client {
    pub fn poll(&mut self, worker: &Worker) {
        worker.world.drain();
        loop {
            let (taken, seen) = self.stream.poll();
            for event in seen {
                self.last = event.id.or(self.last.take());
                self.seen.push(if event.name.is_empty() { event.data } else { event.name });
            }
            if taken == Taken::Finished {
                worker.world.hub.close_finished(&self.stream.reader, &self.stream.identity);
                continue;
            }
            self.has_ended |= taken == Taken::End;
            if taken != Taken::Some {
                return;
            }
        }
    }

    pub fn until(&mut self, worker: &Worker, is_done: impl Fn(&Self) -> bool) {
        until(|| {
            self.poll(worker);
            is_done(self)
        });
    }

    /// What it sees up to this.
    pub fn up_to(&mut self, worker: &Worker, data: &str) -> Vec<String> {
        self.until(worker, |client| client.seen.iter().any(|seen| seen == data));
        let events = std::mem::take(&mut self.seen);
        events.into_iter().filter(|name| name != "stream-open" && name != "stream-cursor").collect()
    }
}

pub fn until(mut is_done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_done() {
        assert!(Instant::now() < end, "it takes too long");
        std::thread::sleep(MS);
    }
}

fn present(asked: Present) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(asked).expect("an answer").expect("no failure")
}

#[test]
fn what_one_publishes_everybody_gets_in_one_order() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let (mut one, mut two) = (a.live(), b.live());
    let posted: Vec<_> =
        (0..50).map(|n| if n % 2 == 0 { a.post(&n.to_string()) } else { b.post(&n.to_string()) }).collect();
    for outcome in posted {
        assert!(outcome.wait_until(Instant::now() + PATIENCE).unwrap().is_ok());
    }
    assert!(a.publish("end").is_ok());
    let seen = one.up_to(&a, "end");
    assert_eq!(seen.len(), 51);
    assert_eq!(two.up_to(&b, "end"), seen);
}

#[test]
fn letters_are_appended_in_the_order_in_which_they_were_posted() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    store.with(|memory| memory.delay = 20 * MS);
    let posted: Vec<_> = (0..1000).map(|n| worker.post(&n.to_string())).collect();
    assert_eq!(worker.broker.finish(), 0, "nothing is left");
    let ids: Vec<_> = posted.iter().map(|outcome| outcome.get().unwrap().unwrap().unwrap()).collect();
    let mut sorted = ids.clone();
    sorted.sort_by_key(|id| (id.epoch.as_str().parse::<u64>().unwrap(), id.seq));
    assert_eq!(ids, sorted);
    assert!(worker.world.hub.post(Letter::Event { to: To::All, draft: draft("late") }).is_err());
    client.poll(&worker);
}

#[test]
fn a_client_that_comes_back_at_another_process_gets_what_it_missed() {
    let store = MemoryStore::default();
    let a = Worker::new(&store);
    let mut client = a.live();
    for n in 0..10 {
        a.publish(&n.to_string()).unwrap();
    }
    client.up_to(&a, "4");
    let last = client.last.clone().unwrap();
    let b = Worker::without_history(&store);
    until(|| b.is_connected());
    let mut back = b.resume(Some(&last));
    b.publish("end").unwrap();
    let seen = back.up_to(&b, "end");
    let missed = client.up_to(&a, "end");
    assert_eq!(seen, missed);
    assert_eq!(back.stream.recovered(), Some(true));
}

#[test]
fn a_reply_that_is_lost_is_unknown_and_the_event_comes_once() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    store.with(|memory| memory.loses_reply = true);
    assert!(matches!(worker.publish("1"), Err(Failure::Unknown(_))));
    worker.publish("2").unwrap();
    assert_eq!(client.up_to(&worker, "2"), ["1", "2"]);
    assert_eq!(worker.broker.failed(), 1);
}

#[test]
fn a_store_that_is_down_for_a_while_costs_nothing() {
    let store = MemoryStore::default();
    let worker = Worker::new(&store);
    let mut client = worker.live();
    store.with(|memory| {
        memory.is_down = true;
        memory.cut();
    });
    until(|| !worker.is_connected());
    assert!(matches!(worker.publish("too late"), Err(Failure::Refused(_))));
    let mut newcomer = worker.subscribe();
    newcomer.until(&worker, |client| client.seen == ["stream-open"]);
    store.with(|memory| memory.is_down = false);
    until(|| worker.is_connected());
    worker.publish("1").unwrap();
    assert_eq!(client.up_to(&worker, "1"), ["1"]);
    assert!(newcomer.up_to(&worker, "1").ends_with(&["1".into()]));
}

#[test]
fn presence_is_that_of_all_processes_and_written_again_when_it_is_lost() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let (one, two) = (a.live(), b.live());
    let mut ids = [&one, &two].map(|client| client.stream.identity.name().to_string());
    ids.sort();
    until(|| present(a.broker.present(Some("t".into()))) == ids);
    assert_eq!(present(b.broker.present(None)), ids);
    store.with(super::memory_store::Memory::forget_workers);
    until(|| present(a.broker.present(Some("t".into()))).len() == 1);
    assert_eq!(present(b.broker.present(Some("t".into()))), ids);
    two.stream.leave();
    assert_eq!(present(b.broker.present(Some("t".into()))).len(), 1);
    assert_eq!(b.broker.finish(), 0);
    assert_eq!(store.with(|memory| memory.workers()), 1, "a process that ends takes its own away");
    assert!(b.broker.has_ended());
    assert_eq!(present(a.broker.present(Some("u".into()))), Vec::<String>::new());
}
