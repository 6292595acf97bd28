//! History against a reference: what is kept, what is known to be lost, and replays in pages while more is
//! published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sse_hub::entry::{Entry, Target};
use sse_hub::frame::FrameBuilder;
use sse_hub::history::{History, Past, Replay, Retention};
use sse_hub::key::Key;
use sse_hub::topic::{TopicId, TopicIds};

use crate::history_model::{Event, Floor, Reference};

const TOPICS: u64 = 4;
const ALL: [u64; 4] = [0, 1, 2, 3];

#[derive(Debug, Clone)]
enum Step {
    Open(u64, Retention),
    Forget(u64),
    /// Keep everything from now on, and what is kept already if so.
    Pin(u64, bool),
    Publish(Vec<u64>, usize, Option<u8>),
    Wait(u64),
    /// A client's replay of these topics, from so many events ago, in pages of so many events and bytes.
    Resume(Vec<u64>, u64),
    Remains(Vec<u64>, u64),
    Past(Vec<u64>, Option<usize>),
    Page(usize, usize),
    /// The replay goes on to what was published since.
    Extend,
}

fn some_topics() -> impl Strategy<Value = Vec<u64>> {
    prop::sample::subsequence(ALL.to_vec(), 1..=ALL.len())
}

fn retention() -> impl Strategy<Value = Retention> {
    (0..8_usize, prop_oneof![Just(usize::MAX), 0..300_usize], prop::option::of(0..50_u64))
        .prop_map(|(count, bytes, age)| Retention { count, bytes, age: age.map(Duration::from_secs) })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..TOPICS, retention()).prop_map(|(topic, rule)| Step::Open(topic, rule)),
        1 => (0..TOPICS).prop_map(Step::Forget),
        1 => (0..TOPICS, any::<bool>()).prop_map(|(topic, rest)| Step::Pin(topic, rest)),
        12 => (some_topics(), 0..120_usize, prop::option::of(0..5_u8))
            .prop_map(|(topics, size, key)| Step::Publish(topics, size, key)),
        2 => (0..20_u64).prop_map(Step::Wait),
        2 => (some_topics(), 0..12_u64).prop_map(|(topics, back)| Step::Resume(topics, back)),
        1 => (some_topics(), 0..12_u64).prop_map(|(topics, back)| Step::Remains(topics, back)),
        1 => (some_topics(), prop::option::of(0..6_usize)).prop_map(|(topics, n)| Step::Past(topics, n)),
        8 => (1..5_usize, 1..400_usize).prop_map(|(events, bytes)| Step::Page(events, bytes)),
        2 => Just(Step::Extend),
    ]
}

fn ids(topics: &[u64]) -> TopicIds {
    topics.iter().map(|&topic| TopicId(topic)).collect()
}

/// A replay that is under way, and what its client knows.
struct Reader {
    replay: Replay,
    until: u64,
    /// Up to here, topic by topic, everything was delivered, or the client knows better than to wait for it.
    floors: BTreeMap<u64, Floor>,
    /// A client that was reset, or is new, has no claim to this while nothing was delivered to it.
    unclaimed: u64,
}

struct World {
    history: History,
    reference: Reference,
    now: Duration,
    seq: u64,
    readers: Vec<Reader>,
}

impl World {
    fn new(total_bytes: usize) -> Self {
        let mut world = Self {
            history: History::new(total_bytes),
            reference: Reference { total_bytes, ..Reference::default() },
            now: Duration::ZERO,
            seq: 0,
            readers: Vec::new(),
        };
        for topic in ALL {
            world.open(topic, Retention { count: 5, bytes: 400, age: None });
        }
        world
    }

    fn open(&mut self, topic: u64, rule: Retention) {
        self.history.open(TopicId(topic), &topic.to_string(), rule);
        self.reference.open(topic, rule);
    }

    fn pin(&mut self, topic: u64, rest: bool) {
        if rest {
            self.history.pin_rest(TopicId(topic));
        } else {
            self.history.pin(TopicId(topic), self.seq, None);
        }
        self.reference.pin(topic, rest);
    }

    /// What reading history does on the way.
    fn shrink(&mut self, topics: &[u64]) {
        for &topic in topics {
            self.reference.shrink(topic, self.now);
        }
    }

    fn publish(&mut self, topics: Vec<u64>, size: usize, key: Option<u8>) {
        // The hub opens a topic before it publishes to it.
        for &topic in &topics {
            if !self.reference.rules.contains_key(&topic) {
                self.open(topic, Retention { count: 5, bytes: 400, age: None });
            }
        }
        self.seq += 1;
        let mut builder = FrameBuilder::new(None, None);
        builder.text(&"x".repeat(size));
        let draft = builder.finish(None).keyed(key.map(|key| Key::new(&key.to_string()).unwrap()));
        let frame = draft.seal(None);
        let entry = Arc::new(Entry::new(Some(self.seq), Target::Topics(ids(&topics)), self.now, frame));
        self.history.append(&entry);
        let event = Event {
            seq: self.seq,
            topics,
            len: entry.len(),
            at: self.now,
            key,
            kept_in: BTreeSet::new(),
            replaced_in: BTreeSet::new(),
            pinned_in: BTreeSet::new(),
        };
        self.reference.append(event);
    }

    fn resume(&mut self, topics: &[u64], back: u64) -> Result<(), TestCaseError> {
        let after = self.seq.saturating_sub(back);
        self.shrink(topics);
        let whole = self.history.reaches(&ids(topics), after, self.now);
        prop_assert_eq!(whole, self.reference.reaches(topics, after));
        if whole {
            let replay = self.history.resume(&ids(topics), after, self.seq);
            prop_assert_eq!(replay.from(), after);
            let floors = topics.iter().map(|&topic| (topic, Floor::behind(after))).collect();
            let expected = self.reference.between(&floors, self.seq);
            prop_assert_eq!(self.all(&mut replay.clone(), 3)?, expected, "a whole replay is whole");
            self.readers.push(Reader { replay, until: self.seq, floors, unclaimed: 0 });
        }
        Ok(())
    }

    /// A replay from beginning to end, while nothing is published.
    fn all(&mut self, replay: &mut Replay, page: usize) -> Result<Vec<u64>, TestCaseError> {
        let mut numbers = Vec::new();
        loop {
            let page = self.history.page(replay, page, usize::MAX, self.now);
            prop_assert!(!page.lost, "nothing is lost while nothing is published");
            numbers.extend(page.entries.iter().map(|entry| entry.seq.unwrap()));
            if page.done {
                return Ok(numbers);
            }
        }
    }

    fn remains(&mut self, topics: &[u64], back: u64) -> Result<(), TestCaseError> {
        let after = self.seq.saturating_sub(back);
        self.shrink(topics);
        // The hub comes here only when it does not reach.
        self.history.reaches(&ids(topics), after, self.now);
        let replay = self.history.remains(&ids(topics), after, self.seq);
        let first = |topic| self.reference.kept(topic).into_iter().find(|&first| first > after);
        let floor = |&topic: &u64| {
            (topic, self.reference.unpromised(topic, first(topic).map_or(self.seq, |first| first - 1)))
        };
        let floors = topics.iter().map(floor).collect();
        let expected = self.reference.between(&floors, self.seq);
        prop_assert_eq!(self.all(&mut replay.clone(), 2)?, expected);
        self.readers.push(Reader { replay, until: self.seq, floors, unclaimed: self.seq });
        Ok(())
    }

    fn past(&mut self, topics: &[u64], last: Option<usize>) -> Result<(), TestCaseError> {
        let past = last.map_or(Past::All, Past::Last);
        self.shrink(topics);
        let replay = self.history.past(&ids(topics), past, self.seq, self.now);
        let mut floors = BTreeMap::new();
        for &topic in topics.iter().filter(|topic| self.reference.rules.contains_key(topic)) {
            let kept = self.reference.kept(topic);
            let first = kept.get(kept.len().saturating_sub(last.unwrap_or(usize::MAX)));
            let read = first.map_or(self.seq, |first| first - 1);
            floors.insert(topic, self.reference.unpromised(topic, read));
        }
        let expected = self.reference.between(&floors, self.seq);
        prop_assert_eq!(self.all(&mut replay.clone(), 2)?, expected);
        self.readers.push(Reader { replay, until: self.seq, floors, unclaimed: self.seq });
        Ok(())
    }

    /// The next page of some client's replay.
    fn page(&mut self, events: usize, bytes: usize) -> Result<(), TestCaseError> {
        if self.readers.is_empty() {
            return Ok(());
        }
        let mut reader = self.readers.remove(0);
        self.shrink(&reader.floors.keys().copied().collect::<Vec<_>>());
        let page = self.history.page(&mut reader.replay, events, bytes, self.now);
        prop_assert!(page.entries.len() <= events);
        prop_assert!(page.done || !page.entries.is_empty(), "a page without an end has something in it");

        // Something that was still to come is gone: said then, and only then.
        let mut lost = false;
        for (&topic, floor) in &mut reader.floors {
            let (newest, settled) = (self.reference.lost(topic), floor.read.max(floor.lost));
            if newest > settled && settled < reader.until {
                lost |= newest.min(reader.until) > reader.unclaimed;
                floor.lost = newest;
            }
        }
        prop_assert_eq!(page.lost, lost);
        let numbers: Vec<u64> = page.entries.iter().map(|entry| entry.seq.unwrap()).collect();
        let end = if page.done { reader.until } else { *numbers.last().unwrap() };
        prop_assert_eq!(&numbers, &self.reference.between(&reader.floors, end), "a gap nobody was told of");
        if !page.done {
            reader.floors.values_mut().for_each(|floor| floor.read = end.max(floor.read));
            reader.unclaimed = 0;
            self.readers.push(reader);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.history.bytes(), self.reference.bytes());
        prop_assert_eq!(self.history.events(), self.reference.count());
        prop_assert!(self.reference.budgeted() <= self.reference.total_bytes);
        for topic in ALL {
            prop_assert_eq!(
                self.history.keeps_nothing(TopicId(topic)),
                self.reference.kept(topic).is_empty()
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_keeps_and_replays_what_the_reference_does(
        steps in prop::collection::vec(step(), 1..100),
        total_bytes in prop_oneof![Just(1 << 20), 0..3_000_usize],
    ) {
        let mut world = World::new(total_bytes);
        for step in steps {
            match step {
                Step::Open(topic, rule) => world.open(topic, rule),
                Step::Forget(topic) => {
                    world.history.evict_topic(TopicId(topic), &topic.to_string());
                    world.reference.forget(topic);
                }
                Step::Pin(topic, rest) => world.pin(topic, rest),
                Step::Publish(topics, size, key) => world.publish(topics, size, key),
                Step::Wait(seconds) => world.now += Duration::from_secs(seconds),
                Step::Resume(topics, back) => world.resume(&topics, back)?,
                Step::Remains(topics, back) => world.remains(&topics, back)?,
                Step::Past(topics, last) => world.past(&topics, last)?,
                Step::Page(events, bytes) => world.page(events, bytes)?,
                Step::Extend => {
                    if let Some(reader) = world.readers.first_mut() {
                        reader.replay.extend(world.seq);
                        reader.until = world.seq;
                    }
                }
            }
            world.check()?;
        }
        for topic in ALL {
            world.history.evict_topic(TopicId(topic), &topic.to_string());
        }
        prop_assert_eq!((world.history.bytes(), world.history.events()), (0, 0));
    }
}
