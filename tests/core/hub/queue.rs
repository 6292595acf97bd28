//! The queue against a reference that keeps plain vectors, and the rules that only it knows.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sse_hub::entry::{Entry, Target};
use sse_hub::frame::FrameBuilder;
use sse_hub::key::Key;
use sse_hub::queue::{Capacity, OverflowPolicy, Pushed, Queue, Room};
use sse_hub::topic::{TopicId, TopicIds};

const DROPPED: Pushed = Pushed::Dropped { events: 1, superseded: 0 };

fn entry(seq: u64, size: usize) -> Arc<Entry> {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(&"x".repeat(size));
    Arc::new(Entry::new(Some(seq), Target::All, Duration::ZERO, builder.finish(None).seal(None)))
}

/// A value of a key, published to some topics.
fn value(seq: u64, size: usize, key: Option<u8>, topics: &[u64]) -> Arc<Entry> {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(&"x".repeat(size));
    let draft = builder.finish(None).keyed(key.map(|key| Key::new(&key.to_string()).unwrap()));
    let topics: TopicIds = topics.iter().map(|&topic| TopicId(topic)).collect();
    Arc::new(Entry::new(Some(seq), Target::Topics(topics), Duration::ZERO, draft.seal(None)))
}

/// The numbers of what waits, with how many were dropped before the first and after the last.
fn take(queue: &mut Queue) -> (u64, Vec<u64>, u64) {
    take_most(queue, usize::MAX)
}

/// The same of the first, which have no more than this many bytes, but for one alone.
fn take_most(queue: &mut Queue, most: usize) -> (u64, Vec<u64>, u64) {
    let (before, entries, after) = queue.take(most);
    (before, entries.map(|entry| entry.seq.unwrap()).collect(), after)
}

#[derive(Debug, Clone)]
enum Step {
    Push { size: usize, counts: bool, key: Option<u8>, topics: Vec<u64> },
    Take { most: usize },
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (
            0..60_usize,
            prop::bool::weighted(0.8),
            prop::option::of(0..4_u8),
            prop::sample::subsequence(vec![1, 2], 1..=2),
        ).prop_map(|(size, counts, key, topics)| Step::Push { size, counts, key, topics }),
        2 => prop::option::of(0..400_usize).prop_map(|most| Step::Take { most: most.unwrap_or(usize::MAX) }),
        1 => Just(Step::Clear),
    ]
}

fn policy() -> impl Strategy<Value = OverflowPolicy> {
    prop::sample::select(vec![
        OverflowPolicy::Disconnect,
        OverflowPolicy::DropOldest,
        OverflowPolicy::DropNewest,
    ])
}

/// What the documentation promises, with nothing but vectors.
struct Reference {
    waiting: Vec<Arc<Entry>>,
    dropped: (u64, u64),
    capacity: Capacity,
    policy: OverflowPolicy,
}

impl Reference {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|entry| entry.len()).sum()
    }

    fn fits(&self, len: usize) -> bool {
        self.waiting.is_empty()
            || (self.waiting.len() < self.capacity.events && self.bytes() + len <= self.capacity.bytes)
    }

    /// Take out the older values of the entry's key that nobody needs beside it; returns how many.
    fn supersede(&mut self, new: &Entry) -> u64 {
        let before = self.waiting.len();
        let covers = |old: &Entry| old.target.rings().iter().all(|topic| new.target.rings().contains(topic));
        self.waiting.retain(|old| new.key().is_none() || old.key() != new.key() || !covers(old));
        (before - self.waiting.len()) as u64
    }

    /// What [`take_most`] gives.
    fn take(&mut self, most: usize) -> (u64, Vec<u64>, u64) {
        let mut bytes = 0;
        let fitting = self.waiting.iter().take_while(|entry| {
            bytes += entry.len();
            bytes <= most
        });
        let count = fitting.count().max(1).min(self.waiting.len());
        let taken = self.waiting.drain(..count).map(|entry| entry.seq.unwrap()).collect();
        let before = std::mem::take(&mut self.dropped.0);
        let after = if self.waiting.is_empty() { std::mem::take(&mut self.dropped.1) } else { 0 };
        (before, taken, after)
    }

    fn push(&mut self, entry: &Arc<Entry>, counts: bool) -> Pushed {
        let len = entry.len();
        // Once a new event was dropped, a newer one must not overtake it.
        let behind = self.dropped.1 > 0;
        let waiting = self.waiting.clone();
        let superseded = self.supersede(entry);
        if !behind && (!counts || self.fits(len)) {
            self.waiting.push(entry.clone());
            return if superseded == 0 { Pushed::Queued } else { Pushed::Superseded(superseded) };
        }
        if self.policy != OverflowPolicy::DropOldest {
            self.waiting = waiting;
        }
        match self.policy {
            OverflowPolicy::Disconnect => Pushed::Overflow,
            OverflowPolicy::DropNewest => {
                self.dropped.1 += 1;
                DROPPED
            }
            OverflowPolicy::DropOldest => {
                let mut dropped = 0;
                while !self.fits(len) {
                    self.waiting.remove(0);
                    dropped += 1;
                }
                self.dropped.0 += dropped;
                self.waiting.push(entry.clone());
                Pushed::Dropped { events: dropped, superseded }
            }
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_reference_does(
        steps in prop::collection::vec(step(), 1..80),
        policy in policy(),
        // From 16 entries on, the values are found by an index.
        events in prop_oneof![0..6_usize, 0..60_usize],
        bytes in prop_oneof![0..200_usize, 0..4000_usize],
    ) {
        let capacity = Capacity { events, bytes };
        let mut queue = Queue::new(capacity, policy);
        let mut reference = Reference { waiting: Vec::new(), dropped: (0, 0), capacity, policy };
        let (mut pushed, mut refused, mut taken, mut cleared, mut dropped) = (0, 0, 0, 0, 0);
        let mut replaced = 0;
        for step in steps {
            match step {
                Step::Push { size, counts, key, topics } => {
                    pushed += 1;
                    let entry = value(pushed, size, key, &topics);
                    let behind = reference.dropped.1 > 0;
                    let outcome = queue.push(&entry, if counts { Room::InAll } else { Room::Any });
                    prop_assert_eq!(outcome, reference.push(&entry, counts));
                    prop_assert!(
                        counts || behind || matches!(outcome, Pushed::Queued | Pushed::Superseded(_)),
                        "refused although nothing is unfinished"
                    );
                    refused += u64::from(outcome == Pushed::Overflow);
                    if let Pushed::Superseded(n) | Pushed::Dropped { superseded: n, .. } = outcome {
                        replaced += n;
                    }
                }
                Step::Take { most } => {
                    let expected = reference.take(most);
                    let got = take_most(&mut queue, most);
                    taken += got.1.len() as u64;
                    dropped += got.0 + got.2;
                    prop_assert_eq!(got, expected);
                }
                Step::Clear => {
                    cleared += reference.waiting.len() as u64;
                    reference.waiting.clear();
                    queue.clear();
                }
            }
            prop_assert_eq!((queue.len(), queue.bytes()), (reference.waiting.len(), reference.bytes()));
            let nothing = reference.waiting.is_empty() && reference.dropped == (0, 0);
            prop_assert_eq!(queue.is_empty(), nothing);
        }
        let (before, rest, after) = take(&mut queue);
        taken += rest.len() as u64;
        // Everything went somewhere, and was counted there once.
        prop_assert_eq!(pushed, taken + refused + cleared + dropped + before + after + replaced);
    }
}

#[test]
fn an_event_larger_than_the_limit_in_bytes_is_let_in_alone() {
    let mut queue = Queue::new(Capacity { events: 10, bytes: 50 }, OverflowPolicy::Disconnect);
    assert_eq!(queue.push(&entry(1, 500), Room::InAll), Pushed::Queued);
    assert_eq!(queue.push(&entry(2, 1), Room::InAll), Pushed::Overflow);
}

#[test]
fn each_limit_holds_by_itself() {
    let len = entry(0, 10).len();
    for capacity in [Capacity { events: 2, bytes: usize::MAX }, Capacity { events: 100, bytes: 2 * len }] {
        let mut queue = Queue::new(capacity, OverflowPolicy::DropOldest);
        let pushed: Vec<Pushed> = (1..=4).map(|seq| queue.push(&entry(seq, 10), Room::InAll)).collect();
        assert_eq!(pushed, [Pushed::Queued, Pushed::Queued, DROPPED, DROPPED]);
        assert_eq!(take(&mut queue), (2, vec![3, 4], 0));
    }
}

/// A small event behind a large one that was dropped would carry the client's id past the dropped one before
/// it hears of it: cut there, it would resume past a gap that was never announced.
#[test]
fn nothing_overtakes_a_dropped_newest() {
    let (large, small) = (entry(2, 80), entry(3, 1));
    let mut queue = Queue::new(Capacity { events: 10, bytes: 100 }, OverflowPolicy::DropNewest);
    assert_eq!(queue.push(&entry(1, 50), Room::InAll), Pushed::Queued);
    assert_eq!(queue.push(&large, Room::InAll), DROPPED);
    assert_eq!(queue.push(&small, Room::InAll), DROPPED);
    assert_eq!(take(&mut queue), (0, vec![1], 2));
    assert_eq!(queue.push(&small, Room::InAll), Pushed::Queued);
}

/// A `stream-reset` for events that cannot be counted.
fn a_break(seq: u64) -> Arc<Entry> {
    let frame = FrameBuilder::new(None, Some("stream-reset")).finish(None).seal(None);
    Arc::new(Entry::new(Some(seq), Target::All, Duration::ZERO, frame).breaking())
}

#[test]
fn a_break_is_never_dropped() {
    let capacity = Capacity { events: 3, bytes: usize::MAX };
    for (policy, expected) in [
        // Events dropped behind the break are announced before it: their places are not known.
        (OverflowPolicy::DropOldest, (6, vec![5, 8, 9], 0)),
        (OverflowPolicy::DropNewest, (0, vec![5, 6, 7], 2)),
    ] {
        let mut queue = Queue::new(capacity, policy);
        for seq in 1..=9 {
            let pushed = if seq == 5 { a_break(5) } else { entry(seq, 10) };
            assert_ne!(queue.push(&pushed, Room::InAll), Pushed::Overflow);
        }
        assert_eq!(take(&mut queue), expected, "{policy:?}");
    }
}

/// A client that is slow with a table of a thousand rows waits for a thousand values, however often each changes.
#[test]
fn a_queue_holds_the_newest_value_of_each_key() {
    let capacity = Capacity { events: 1000, bytes: usize::MAX };
    let mut queue = Queue::new(capacity, OverflowPolicy::Disconnect);
    for seq in 1..=100_000_u64 {
        let key = u8::try_from(seq % 200).unwrap();
        let pushed = queue.push(&value(seq, 10, Some(key), &[1]), Room::InAll);
        assert_eq!(pushed, if seq <= 200 { Pushed::Queued } else { Pushed::Superseded(1) });
    }
    assert_eq!(take(&mut queue), (0, (99_801..=100_000).collect(), 0));
    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}
