//! The storm of a broker's stream: two processes that follow one stream, which is trimmed, emptied, loses its end and
//! goes on with smaller ids, and clients that are cut and come back at the other one: no client misses an event
//! unannounced, receives one twice, or in another order.
//!
//! Longer than other files, because the storm's model, steps and checks are read together.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use sse_hub::config::Config;
use sse_hub::history::Retention;
use sse_hub::hub::Request;
use sse_hub::ids::StreamId;
use sse_hub::subscriber::Taken;

use crate::stream_world::{Stream, Worker, beginning};
use crate::support::{self, Seen, config, topics};

const NAMES: [&str; 3] = ["a", "b", "c"];
const WORKERS: usize = 2;
/// The id before the first entry of a stream that has no beginning of its own.
const NOWHERE: &str = "0-0";

#[derive(Debug, Clone)]
enum Step {
    Publish(Vec<usize>),
    Trim(usize),
    /// Everything is deleted, and the clock goes on from this share of what it showed. The stream's new life
    /// begins with an id of its own; or, where that was refused, with `0-0`.
    Empty(u64, bool),
    /// The newest entries are lost; the clock goes on, or is set back with them.
    LoseTail(usize, bool),
    Follow(usize, usize),
    CheckPosition(usize),
    /// A process ends, with its connections, and another begins with so many of the newest entries.
    Restart(usize, usize),
    Drain(usize),
    Answer(usize, usize),
    Connect(usize, usize),
    /// The consumer's visit; of what it takes so many events reach the client, which is cut then.
    Visit(usize, Option<usize>),
    Cut(usize),
}

fn some_topics() -> impl Strategy<Value = Vec<usize>> {
    prop::sample::subsequence(vec![0, 1, 2], 1..=3)
}

fn harmless() -> impl Strategy<Value = Step> {
    let (worker, client) = (0..WORKERS, 0..4_usize);
    prop_oneof![
        10 => some_topics().prop_map(Step::Publish),
        8 => (worker.clone(), 1..6_usize).prop_map(|(at, count)| Step::Follow(at, count)),
        2 => worker.clone().prop_map(Step::CheckPosition),
        1 => (worker.clone(), 0..8_usize).prop_map(|(at, kept)| Step::Restart(at, kept)),
        8 => worker.clone().prop_map(Step::Drain),
        12 => (worker.clone(), 0..8_usize).prop_map(|(at, which)| Step::Answer(at, which)),
        6 => (client.clone(), worker).prop_map(|(client, at)| Step::Connect(client, at)),
        12 => client.clone().prop_map(|client| Step::Visit(client, None)),
        3 => (client.clone(), 0..4_usize).prop_map(|(client, whole)| Step::Visit(client, Some(whole))),
        2 => client.prop_map(Step::Cut),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        24 => harmless(),
        1 => (0..6_usize).prop_map(Step::Trim),
        1 => (prop_oneof![Just(0), Just(50), Just(100)], any::<bool>()).prop_map(|(share, own)| Step::Empty(share, own)),
        1 => (1..6_usize, any::<bool>()).prop_map(|(count, behind)| Step::LoseTail(count, behind)),
    ]
}

struct Client {
    topics: Vec<usize>,
    worker: usize,
    stream: Option<support::Stream>,
    /// The last id it has, and how many events were published up to there.
    last: Option<String>,
    seen: u64,
    /// It knows where it is: events before are not its own.
    placed: bool,
    /// Up to here a reset announced a gap.
    excused: u64,
    resets: usize,
    /// A reset announced a gap since it came.
    told: bool,
    /// The events it got.
    got: HashSet<u64>,
}

/// What was published, in order: the topics. Event `n` says so in its data.
#[derive(Default)]
struct Record {
    published: Vec<Vec<usize>>,
    places: HashMap<String, u64>,
    /// What the stream has lost, by number and by id.
    lost: HashSet<u64>,
    lost_ids: HashSet<String>,
    /// Up to here everything was deleted.
    emptied: u64,
}

impl Client {
    fn missing(&self, until: u64, record: &Record) -> Vec<u64> {
        let is_mine = |n: &u64| {
            record.published[usize::try_from(*n).unwrap() - 1].iter().any(|topic| self.topics.contains(topic))
        };
        let is_there = |n: &u64| !record.lost.contains(n);
        (self.seen.max(self.excused) + 1..=until).filter(is_mine).filter(is_there).collect()
    }

    fn see(&mut self, event: &Seen, record: &Record) -> Result<(), TestCaseError> {
        let head = record.published.len() as u64;
        let place = event.id.as_ref().map(|id| record.places[id]);
        if let (Some(id), Some(last)) = (&event.id, &self.last)
            && event.name != "stream-reset"
        {
            let went_on = record.lost_ids.contains(last) && !record.lost_ids.contains(id);
            prop_assert!(self.told || !went_on, "{} after {last}, which is lost", event.short());
        }
        if let (Some(place), false) = (place, event.data.is_empty() || event.name.starts_with("stream-")) {
            // What the stream has no more may come again from a process that has not noticed.
            let is_new = self.got.insert(place) || record.lost.contains(&place) || place <= record.emptied;
            prop_assert!(is_new, "{} once more", event.short());
        }
        if event.name == "stream-reset" {
            self.resets += 1;
            self.told = true;
            if !event.data.contains(r#""requested":null"#) {
                // A stream that begins with a reset is a newcomer's: what the client held before is void.
                self.got.clear();
            }
            self.excused = head;
            // It may go on before what it has seen, in a stream that was emptied.
            self.seen = place.unwrap_or(self.seen);
            self.placed = true;
        } else if let Some(place) = place.filter(|_| !self.placed) {
            // The id does not say which life it is from: a client that resumes with it must be reset.
            self.placed = event.id.as_deref() != Some(NOWHERE);
            self.seen = place;
        } else if let Some(place) = place {
            let text = event.short();
            let missing = |until| self.missing(until, record);
            match event.name.as_str() {
                "stream-open" => prop_assert_eq!(place, self.seen, "{}", text),
                "stream-cursor" => prop_assert_eq!(missing(place), Vec::<u64>::new(), "at {}", text),
                _ => {
                    prop_assert_eq!(&event.data, &place.to_string());
                    prop_assert!(place > self.seen, "{} after {}", text, self.seen);
                    prop_assert_eq!(missing(place - 1), Vec::<u64>::new(), "before {}", text);
                    prop_assert!(self.missing(place, record).len() <= 1);
                }
            }
            self.seen = self.seen.max(place);
        } else {
            prop_assert!(event.data.is_empty(), "{} has no id", event.data);
        }
        self.last = event.id.clone().or(self.last.take());
        Ok(())
    }
}

struct Storm {
    config: Config,
    stream: Stream,
    record: Record,
    workers: Vec<Worker>,
    clients: Vec<Client>,
}

impl Storm {
    fn new(history: usize) -> Self {
        let retention = Retention { count: history, bytes: 1 << 20, age: None };
        let config = Config { retention, heartbeat: None, ..config() };
        let mut stream = Stream { ms: 1000, ..Stream::default() };
        let mut record = Record::default();
        record.places.extend([stream.last, StreamId::default()].map(|id| (id.to_string(), 0)));
        record.publish(&mut stream, vec![0]);
        let workers = (0..WORKERS).map(|_| Worker::begun(config.clone(), &stream, 4)).collect();
        let clients = [vec![0], vec![1], vec![0, 1], vec![2]].map(|topics| Client {
            topics,
            worker: 0,
            stream: None,
            last: None,
            seen: 0,
            placed: false,
            excused: 0,
            resets: 0,
            told: false,
            got: HashSet::new(),
        });
        Self { config, stream, record, workers, clients: clients.into() }
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let Self { stream, record, workers, clients, .. } = self;
        match step {
            Step::Publish(topics) => record.publish(stream, topics.clone()),
            Step::Trim(keep) => stream.trim(*keep),
            Step::Empty(share, own) => {
                // No id comes twice: two lives of the stream could not be told apart by it. So the last three
                // digits count what was published.
                let ms = stream.ms * share / 100 / 1000 * 1000 + record.published.len() as u64;
                stream.empty(beginning(ms));
                record.emptied = record.published.len() as u64;
                if *own {
                    record.places.insert(stream.last.to_string(), record.published.len() as u64);
                } else {
                    stream.last = StreamId::default();
                    record.publish(stream, vec![0]);
                }
            }
            Step::LoseTail(count, is_clock_behind) => {
                let lost = stream.lose_tail(*count, *is_clock_behind);
                for id in lost.iter().map(ToString::to_string) {
                    record.lost.insert(record.places[&id]);
                    record.lost_ids.insert(id);
                }
            }
            Step::Follow(at, count) => {
                workers[*at].follow(stream, *count);
            }
            Step::CheckPosition(at) => workers[*at].check_position(stream),
            Step::Restart(at, kept) => {
                for client in clients.iter_mut().filter(|client| client.worker == *at) {
                    client.stream = None;
                }
                workers[*at] = Worker::begun(self.config.clone(), stream, *kept);
            }
            Step::Drain(at) => drop(workers[*at].world.drain()),
            Step::Answer(at, which) => drop(workers[*at].answer(stream, *which)),
            Step::Connect(which, at) => self.connect(*which, *at),
            Step::Visit(which, whole) => self.visit(*which, *whole)?,
            Step::Cut(which) => self.cut(*which),
        }
        Ok(())
    }

    fn connect(&mut self, which: usize, at: usize) {
        self.cut(which);
        let client = &mut self.clients[which];
        let names: Vec<&str> = client.topics.iter().map(|&topic| NAMES[topic]).collect();
        let request =
            Request { topics: topics(&names), last_event_id: client.last.clone(), ..Request::default() };
        client.worker = at;
        client.placed = client.last.is_some();
        client.told = false;
        client.stream = Some(self.workers[at].world.subscribe(&request));
    }

    fn cut(&mut self, which: usize) {
        if let Some(stream) = self.clients[which].stream.take() {
            stream.leave();
        }
    }

    fn visit(&mut self, which: usize, whole: Option<usize>) -> Result<(), TestCaseError> {
        let client = &mut self.clients[which];
        let Some(stream) = &client.stream else { return Ok(()) };
        let (taken, seen) = stream.poll();
        for event in seen.iter().take(whole.unwrap_or(usize::MAX)) {
            client.see(event, &self.record)?;
        }
        if taken == Taken::End || whole.is_some() {
            self.cut(which);
        }
        Ok(())
    }

    /// Everybody comes back and gets all there is.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..1000 {
            for worker in &mut self.workers {
                worker.check_position(&self.stream);
                while worker.follow(&self.stream, 100) {}
                worker.answer_all(&self.stream);
                worker.world.drain();
            }
            let mut is_over = true;
            for which in 0..self.clients.len() {
                is_over &= self.clients[which].stream.is_some();
                if self.clients[which].stream.is_none() {
                    self.connect(which, which % WORKERS);
                }
                let before = (self.clients[which].last.clone(), self.clients[which].resets);
                self.visit(which, None)?;
                let client = &self.clients[which];
                is_over &= client.stream.is_some() && before == (client.last.clone(), client.resets);
            }
            if is_over && self.workers.iter().all(|worker| worker.open() == 0) {
                let head = self.record.published.len() as u64;
                for client in &self.clients {
                    if !client.placed {
                        // It came at an unnamed beginning, and nothing was for it since.
                        prop_assert_eq!(client.last.as_deref(), Some(NOWHERE));
                        continue;
                    }
                    prop_assert_eq!(client.missing(head, &self.record), Vec::<u64>::new(), "at the end");
                }
                return Ok(());
            }
        }
        Err(TestCaseError::fail("somebody never gets everything"))
    }
}

impl Record {
    fn publish(&mut self, stream: &mut Stream, to: Vec<usize>) {
        let names: Vec<&'static str> = to.iter().map(|&topic| NAMES[topic]).collect();
        self.published.push(to);
        let number = self.published.len() as u64;
        let id = stream.publish(&names, &number.to_string());
        self.places.insert(id.to_string(), number);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::cases(400), ..ProptestConfig::default() })]

    #[test]
    fn nobody_misses_anything_unsaid(
        history in prop_oneof![Just(3_usize), Just(100)],
        steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let mut storm = Storm::new(history);
        for step in &steps {
            storm.run(step)?;
        }
        storm.finish()?;
    }

    #[test]
    fn while_the_stream_keeps_everything_nobody_is_reset(
        steps in prop::collection::vec(harmless(), 1..150),
    ) {
        let mut storm = Storm::new(100);
        for step in &steps {
            storm.run(step)?;
        }
        storm.finish()?;
        for client in &storm.clients {
            prop_assert_eq!(client.resets, 0);
        }
    }
}

fn run(history: usize, steps: &[Step]) {
    let mut storm = Storm::new(history);
    for step in steps {
        storm.run(step).unwrap();
    }
    storm.finish().unwrap();
}

#[test]
fn what_is_being_fetched_from_a_stream_that_proves_to_be_another_ends_with_the_reset() {
    let (mine, publish) = (3, || Step::Publish(vec![2]));
    run(
        3,
        &[
            Step::Empty(0, true),
            Step::CheckPosition(1),
            Step::Connect(mine, 1),
            Step::Visit(mine, None),
            publish(),
            publish(),
            // At a process that has not noticed, and whose place has the greater id.
            Step::Connect(mine, 0),
            Step::Answer(0, 0),
            publish(),
            publish(),
            Step::Answer(0, 0),
        ],
    );
}

#[test]
fn a_beginning_that_any_stream_may_have_proves_nothing() {
    run(
        3,
        &[
            Step::Connect(0, 1),
            Step::Empty(0, false),
            Step::CheckPosition(1),
            Step::Visit(0, None),
            Step::Publish(vec![0]),
            Step::Visit(0, None),
            Step::Empty(0, false),
            Step::Publish(vec![2]),
        ],
    );
}

#[test]
fn a_client_whose_id_is_beyond_the_end_begins_anew() {
    run(
        3,
        &[
            Step::Publish(vec![0]),
            Step::Publish(vec![1]),
            Step::Connect(0, 1),
            Step::Empty(100, false),
            Step::Publish(vec![0]),
            Step::Follow(1, 2),
            Step::LoseTail(1, false),
            Step::Drain(1),
            Step::Visit(0, None),
            Step::Connect(0, 0),
            Step::Answer(0, 0),
        ],
    );
}
