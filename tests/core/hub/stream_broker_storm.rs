//! A storm over two processes and a store in memory that loses its end, its connections, its replies, single entries
//! and its beginning: every client gets to the end, and each gap is announced. Topics end, and so do the streams of
//! their clients, and no others; streams that their process closes close; processes are replaced. `SSE_HUB_SEED` runs
//! one seed again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sse_hub::broker::Broker;
use sse_hub::broker::letter::{Letter, Step, To};
use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::ending::Ending;
use sse_hub::hub::{Hub, Request};
use sse_hub::identity::CloseReason;
use sse_hub::ids::StreamId;
use sse_hub::outcome::Outcome;
use sse_hub::stream_broker::{Kept, Observer, StreamBroker};
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;

use crate::memory_store::MemoryStore;
use crate::support::{self, MS, World, config, draft, request, topics};

const PATIENCE: Duration = Duration::from_secs(120);
const WORKERS: usize = 2;
const CLIENTS: usize = 6;
/// Each has a topic of its own, which may end.
const ENDING: usize = 6;
const STEPS: usize = 300;

struct Quiet;

impl Observer for Quiet {
    fn warn(&self, _message: String) {}

    fn lagging(&self) {}
}

/// Numbers that look random (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

struct Worker {
    world: World,
    broker: Arc<StreamBroker<MemoryStore>>,
}

impl Worker {
    fn new(store: &MemoryStore, history: usize) -> Self {
        let mut config = Config { heartbeat: None, ..config() };
        config.retention.count = history;
        let kept = Kept { count: history, age: None, min_age: Duration::ZERO, bytes: 1 << 20 };
        let hub = Arc::new(Hub::of_stream(config, Clock::real()));
        let broker = StreamBroker::start(&hub, store.clone(), kept, Box::new(Quiet)).unwrap();
        Self { world: World::of(&hub), broker }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Connected,
    Reset,
    Event(String),
}

#[derive(Default)]
struct Client {
    at: Option<(usize, support::Stream)>,
    last: Option<String>,
    record: Vec<Seen>,
    newest: u64,
    has_ended: bool,
    /// Its worker has asked for the end of its stream.
    is_closing: bool,
}

/// The topic of a client.
fn topic(which: usize) -> String {
    if which < CLIENTS { "t".into() } else { format!("t{which}") }
}

struct Storm {
    seed: u64,
    dice: Dice,
    store: MemoryStore,
    history: usize,
    workers: Vec<Worker>,
    clients: Vec<Client>,
    posted: Vec<(u64, Arc<Outcome>)>,
    number: u64,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let store = MemoryStore::default();
        let mut dice = Dice(seed);
        let history = if dice.roll(2) == 0 { 5 } else { 100 };
        let workers = (0..WORKERS).map(|_| Worker::new(&store, history)).collect();
        let clients = (0..CLIENTS + ENDING).map(|_| Client::default()).collect();
        Self { seed, dice, store, history, workers, clients, posted: Vec::new(), number: 0 }
    }

    fn publish(&mut self) {
        self.number += 1;
        let worker = &self.workers[usize::try_from(self.dice.roll(2)).unwrap()];
        let letter =
            Letter::Event { to: To::Topics(topics(&["t"]).into()), draft: draft(&self.number.to_string()) };
        if let Ok(outcome) = worker.world.hub.post(letter) {
            self.posted.push((self.number, outcome));
        }
    }

    fn end(&mut self, which: usize) {
        let worker = &self.workers[usize::try_from(self.dice.roll(2)).unwrap()];
        let end = Step::End { keep: PATIENCE * 2, ending: Ending::ENDED };
        let letter = Letter::Life { topic: Topic::new(&topic(which)).unwrap(), step: end };
        if let Ok(outcome) = worker.world.hub.post(letter) {
            outcome.ignore();
        }
    }

    fn close(&mut self, which: usize) {
        let client = &mut self.clients[which];
        if let Some((at, stream)) = &client.at {
            let reason = CloseReason::Closed { text: None, drains: true };
            client.is_closing |= self.workers[*at].world.hub.close_by_broker(&stream.identity, &reason);
        }
    }

    /// A process ends, and another one takes its place.
    fn restart(&mut self, at: usize) {
        for which in 0..CLIENTS + ENDING {
            if self.clients[which].at.as_ref().is_some_and(|(there, _)| *there == at) {
                self.cut(which);
            }
        }
        self.workers[at].broker.stop();
        self.workers[at] = Worker::new(&self.store, self.history);
    }

    fn step(&mut self) {
        let some = usize::try_from(self.dice.roll(6)).unwrap();
        let which = usize::try_from(self.dice.roll(2)).unwrap() * CLIENTS + some;
        match self.dice.roll(60) {
            0 => drop(self.store.with(|memory| memory.lose_tail(some, true))),
            1 => self.store.with(|memory| memory.delete(some)),
            2 => self.store.with(|memory| memory.trim(some)),
            3 => self.store.with(super::memory_store::Memory::empty),
            4 | 5 => self.store.with(super::memory_store::Memory::cut),
            6 => self.store.with(|memory| memory.loses_reply = true),
            7 => self.store.with(|memory| memory.delay = MS * u32::try_from(some).unwrap()),
            8 => self.store.with(|memory| memory.is_held = !memory.is_held),
            9 => self.store.with(|memory| {
                memory.is_down = !memory.is_down;
                memory.cut();
            }),
            10 => self.restart(some % WORKERS),
            11 => self.close(which),
            12..29 => self.publish(),
            29 => self.end(CLIENTS + some % ENDING),
            30..36 => self.connect(which),
            36..38 => self.cut(which),
            38..44 => std::thread::sleep(MS * u32::try_from(some).unwrap()),
            _ => self.visit(which),
        }
    }

    fn connect(&mut self, which: usize) {
        self.cut(which);
        if self.clients[which].has_ended {
            return;
        }
        let at = usize::try_from(self.dice.roll(2)).unwrap();
        let client = &mut self.clients[which];
        let request = Request { last_event_id: client.last.clone(), ..request(&[&topic(which)]) };
        client.at = Some((at, self.workers[at].world.subscribe(&request)));
        client.record.push(Seen::Connected);
    }

    fn cut(&mut self, which: usize) {
        if let Some((_, stream)) = self.clients[which].at.take() {
            stream.leave();
        }
        self.clients[which].is_closing = false;
    }

    fn visit(&mut self, which: usize) {
        let client = &mut self.clients[which];
        let Some((at, stream)) = &client.at else { return };
        self.workers[*at].world.drain();
        let (taken, seen) = stream.poll();
        for event in seen {
            match event.name.as_str() {
                "stream-reset" => client.record.push(Seen::Reset),
                "stream-end" => client.has_ended = true,
                "" if !event.data.is_empty() => {
                    client.record.push(Seen::Event(event.id.clone().expect("an id")));
                    client.newest = client.newest.max(event.data.parse().expect("a number"));
                }
                _ => {}
            }
            client.last = event.id.or(client.last.take());
        }
        if taken == Taken::Finished {
            self.workers[*at].world.hub.close_finished(&stream.reader, &stream.identity);
        }
        if taken == Taken::End {
            client.at = None;
            client.is_closing = false;
        }
    }

    /// Everything works again, and everybody gets to the last event.
    fn finish(&mut self) {
        self.store.with(|memory| {
            memory.is_down = false;
            memory.is_held = false;
            memory.delay = Duration::ZERO;
        });
        let end = Instant::now() + PATIENCE;
        let mut at_end: u64 = 0;
        let mut published = Instant::now() - Duration::from_secs(1);
        loop {
            assert!(Instant::now() < end, "seed {}: somebody never gets to the end", self.seed);
            if published.elapsed() > Duration::from_millis(200) {
                // Again, because it may fail; a client without a position receives nothing of the past.
                published = Instant::now();
                self.publish();
                if at_end == 0 {
                    at_end = self.number;
                }
            }
            for which in 0..CLIENTS + ENDING {
                if self.clients[which].at.is_none() {
                    self.connect(which);
                }
                self.visit(which);
            }
            let is_at_end = |(which, client): (usize, &Client)| match which {
                _ if client.is_closing => false,
                ..CLIENTS => client.newest >= at_end,
                _ => client.has_ended || !self.store.with(|memory| memory.has_ended(&topic(which))),
            };
            if self.clients.iter().enumerate().all(is_at_end) {
                return;
            }
            std::thread::sleep(MS);
        }
    }

    fn judge(&self) {
        // Of two publishers, the one that was given its letter first may be the second to append it.
        let acknowledged: BTreeMap<StreamId, u64> = self
            .posted
            .iter()
            .filter_map(|(number, outcome)| Some((place(&outcome.get()?.ok()??.to_string()), *number)))
            .collect();
        for (which, client) in self.clients.iter().enumerate() {
            let has_ended = self.store.with(|memory| memory.ever_ended.contains(&*topic(which)));
            assert!(has_ended || !client.has_ended, "seed {}, client {which}: its topic goes on", self.seed);
            let mut last: Option<StreamId> = None;
            for seen in &client.record {
                match seen {
                    Seen::Connected => {}
                    Seen::Reset => last = None,
                    Seen::Event(id) => {
                        let id = place(id);
                        if let Some(last) = last {
                            let text = format!("seed {}, client {which}: {id} after {last}", self.seed);
                            assert!(id > last, "{text}: twice, or out of order");
                            let missed: Vec<_> =
                                acknowledged.range(last..id).filter(|(at, _)| **at > last).collect();
                            assert!(missed.is_empty(), "{text}: {missed:?} without a reset");
                        }
                        last = Some(id);
                    }
                }
            }
        }
    }
}

fn place(id: &str) -> StreamId {
    StreamId::parse(id).expect("an id of the log")
}

#[test]
fn nobody_misses_anything_unsaid_and_all_get_to_the_end() {
    let seeds: Vec<u64> = match std::env::var("SSE_HUB_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..u64::from(support::cases(10))).collect(),
    };
    for seed in seeds {
        let mut storm = Storm::new(seed);
        for _ in 0..STEPS {
            storm.step();
        }
        storm.finish();
        storm.judge();
        for worker in &storm.workers {
            worker.broker.stop();
        }
    }
}
