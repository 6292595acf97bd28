//! The storm of the core: many clients that take when they like, lag, are cut in the middle of a write, are closed,
//! and come back with their last id, while events are published and time passes, all at random: no gap without
//! `stream-reset` or `stream-lagged`, nothing twice, one order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sse_hub::change::Who;
use sse_hub::error::Error;
use sse_hub::history::Retention;
use sse_hub::identity::CloseReason;
use sse_hub::queue::{Capacity, OverflowPolicy};

use crate::storm_client::{Client, Kind, Log, NAMES};
use crate::support::{MS, World, cases, config, draft};

const CLIENTS: usize = 8;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        topics: Vec<usize>,
        size: usize,
        times: usize,
    },
    Broadcast,
    /// One turn of a loop.
    Turn(usize),
    /// Publications and turns in which no consumer comes back, long enough to count as stuck.
    Lag(Vec<usize>),
    Connect(usize),
    Initial(usize),
    Visit(usize),
    /// A visit; only so many of its events arrive whole.
    CutVisit(usize, usize),
    Cut(usize),
    Close(usize),
    KickAll,
    Wait(u64),
    /// Looks for idle topics, as monitoring does.
    Stats,
}

fn some_topics() -> impl Strategy<Value = Vec<usize>> {
    prop::sample::subsequence(vec![0, 1, 2, 3], 1..=3)
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => (some_topics(), 0..150_usize, 1..6_usize)
            .prop_map(|(topics, size, times)| Step::Publish { topics, size, times }),
        2 => Just(Step::Broadcast),
        14 => (0..2_usize).prop_map(Step::Turn),
        4 => some_topics().prop_map(Step::Lag),
        8 => client.clone().prop_map(Step::Connect),
        4 => client.clone().prop_map(Step::Initial),
        25 => client.clone().prop_map(Step::Visit),
        6 => (client.clone(), 0..6_usize).prop_map(|(client, whole)| Step::CutVisit(client, whole)),
        2 => client.clone().prop_map(Step::Cut),
        1 => client.prop_map(Step::Close),
        1 => Just(Step::KickAll),
        5 => prop::sample::select(vec![1, 5, 25, 1000, 12_000, 31_000]).prop_map(Step::Wait),
        1 => Just(Step::Stats),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    use OverflowPolicy::{Disconnect, DropNewest, DropOldest};
    let overflow = prop::sample::select(vec![Disconnect, DropNewest, DropOldest]);
    (some_topics(), overflow, prop::bool::weighted(0.3), prop::bool::weighted(0.3))
        .prop_map(|(topics, overflow, past, initial)| Kind { topics, overflow, past, initial })
}

struct Storm {
    worlds: [World; 2],
    clients: Vec<Client>,
    log: Log,
    /// Every size is this many times as large: a replay's piece is 64 KiB.
    scale: usize,
}

impl Storm {
    fn new(kinds: Vec<Kind>, age: Option<u64>, scale: usize) -> Self {
        let mut config = config();
        let age = age.map(Duration::from_secs);
        config.retention = Retention { count: 30, bytes: 4000 * scale, age };
        config.history_total_bytes = 8_000 * scale;
        config.capacity = Capacity { events: 4, bytes: 400 * scale };
        config.backlog_bytes = 1500 * scale;
        config.max_subscribers = Some(CLIENTS - 2);
        let first = World::new(config);
        let second = World::of(&first.hub);
        Self {
            worlds: [first, second],
            clients: kinds.into_iter().map(Client::new).collect(),
            log: Log::new(),
            scale,
        }
    }

    fn publish(&mut self, topics: Option<Vec<usize>>, size: usize) -> Result<(), TestCaseError> {
        let data = "x".repeat(size * self.scale);
        let outcome = match &topics {
            Some(topics) => {
                let names: Vec<&str> = topics.iter().map(|&topic| NAMES[topic]).collect();
                self.worlds[0].try_publish(&names, &data)
            }
            None => self.worlds[0].hub.broadcast(draft(&data)),
        };
        match outcome {
            Ok(id) => {
                self.log.push(topics);
                prop_assert_eq!(id.seq, self.log.len() as u64);
            }
            Err(error) => prop_assert!(matches!(error, Error::HubFull { .. }), "{}", error),
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Publish { topics, size, times } => {
                for _ in 0..times {
                    self.publish(Some(topics.clone()), size)?;
                }
            }
            Step::Broadcast => self.publish(None, 5)?,
            Step::Turn(at) => _ = self.worlds[at].turn(),
            Step::Lag(topics) => {
                for _ in 0..9 {
                    self.publish(Some(topics.clone()), 10)?;
                    self.worlds.iter().for_each(|world| _ = world.turn());
                    self.worlds[0].advance(3 * MS);
                }
            }
            Step::Connect(at) => {
                if self.clients[at].stream.is_none() {
                    self.clients[at].connect(&self.worlds[at % 2], self.log.len() as u64);
                }
            }
            Step::Initial(at) => self.clients[at].give_initial(),
            Step::Visit(at) => self.clients[at].visit(None, &self.log)?,
            Step::CutVisit(at, whole) => self.clients[at].visit(Some(whole), &self.log)?,
            Step::Cut(at) => self.clients[at].cut(),
            Step::Close(at) => {
                if let Some(stream) = &self.clients[at].stream {
                    stream.close(CloseReason::CLOSED);
                }
            }
            Step::KickAll => {
                self.worlds[0].hub.disconnect(Who::User("someone".into()), CloseReason::Kicked("out".into()));
            }
            Step::Wait(ms) => self.worlds[0].advance(Duration::from_millis(ms)),
            Step::Stats => _ = self.worlds[0].hub.stats(),
        }
        Ok(())
    }

    /// Everything that is under way arrives.
    fn resolve(&mut self) -> Result<(), TestCaseError> {
        self.worlds.iter().for_each(|world| _ = world.drain());
        for client in &mut self.clients {
            client.give_initial();
            // More than the pages of any replay here, and then the queue, of which a slow client may get one event a visit.
            for _ in 0..40 + self.log.len() {
                client.visit(None, &self.log)?;
            }
            client.check_whole(&self.log)?;
        }
        Ok(())
    }
}

#[test]
fn no_gap_nothing_twice_one_order() {
    let totals: RefCell<BTreeMap<&str, u64>> = RefCell::default();
    let mut runner =
        TestRunner::new(ProptestConfig { cases: cases(250), ..ProptestConfig::with_source_file(file!()) });
    let kinds = prop::collection::vec(kind(), CLIENTS);
    let steps = prop::collection::vec(step(), 1..300);
    let (age, scale) = (prop::option::of(1..40_u64), prop::sample::select(vec![1, 1, 200]));
    let outcome = runner.run(&(kinds, age, scale, steps), |(kinds, age, scale, steps)| {
        let mut storm = Storm::new(kinds, age, scale);
        for step in steps {
            storm.step(step)?;
        }
        storm.resolve()?;
        for client in &mut storm.clients {
            client.cut();
        }
        let stats: BTreeMap<&str, u64> = storm.worlds[0].hub.stats().into_iter().collect();
        prop_assert_eq!((stats["subscribers"], stats["backlog_bytes"]), (0, 0), "something is left behind");
        prop_assert_eq!(stats["connected"], stats["disconnected"]);
        for (name, value) in stats {
            *totals.borrow_mut().entry(name).or_default() += value;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // A storm in which something never happened proves nothing about it.
    for name in
        ["dropped", "overflowed", "stalled", "resets", "resumed", "heartbeats", "refused", "turned_away"]
    {
        assert!(totals.borrow()[name] > 0, "{name} never happened: {totals:?}");
    }
}
