//! The queue against a reference that keeps plain vectors, and the rules that only it knows.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sse_hub::entry::{Entry, Target};
use sse_hub::frame::FrameBuilder;
use sse_hub::queue::{Capacity, OverflowPolicy, Pushed, Queue, Room};

fn entry(seq: u64, size: usize) -> Arc<Entry> {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(&"x".repeat(size));
    Arc::new(Entry::new(Some(seq), Target::All, Duration::ZERO, builder.finish(None).seal(None)))
}

/// The numbers of what waits, with how many were dropped before the first and after the last.
fn take(queue: &mut Queue) -> (u64, Vec<u64>, u64) {
    let (before, entries, after) = queue.take();
    (before, entries.map(|entry| entry.seq.unwrap()).collect(), after)
}

#[derive(Debug, Clone)]
enum Step {
    Push { size: usize, counts: bool },
    Take,
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..60_usize, prop::bool::weighted(0.8)).prop_map(|(size, counts)| Step::Push { size, counts }),
        1 => Just(Step::Take),
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
    waiting: Vec<(u64, usize)>,
    dropped: (u64, u64),
    capacity: Capacity,
    policy: OverflowPolicy,
}

impl Reference {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|(_, len)| len).sum()
    }

    fn fits(&self, len: usize) -> bool {
        self.waiting.is_empty()
            || (self.waiting.len() < self.capacity.events && self.bytes() + len <= self.capacity.bytes)
    }

    fn push(&mut self, seq: u64, len: usize, counts: bool) -> Pushed {
        // Once a new event was dropped, a newer one must not overtake it.
        let behind = self.dropped.1 > 0;
        if !behind && (!counts || self.fits(len)) {
            self.waiting.push((seq, len));
            return Pushed::Queued;
        }
        match self.policy {
            OverflowPolicy::Disconnect => Pushed::Overflow,
            OverflowPolicy::DropNewest => {
                self.dropped.1 += 1;
                Pushed::Dropped(1)
            }
            OverflowPolicy::DropOldest => {
                let mut dropped = 0;
                while !self.fits(len) {
                    self.waiting.remove(0);
                    dropped += 1;
                }
                self.dropped.0 += dropped;
                self.waiting.push((seq, len));
                Pushed::Dropped(dropped)
            }
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_reference_does(
        steps in prop::collection::vec(step(), 1..80),
        policy in policy(),
        events in 0..6_usize,
        bytes in 0..200_usize,
    ) {
        let capacity = Capacity { events, bytes };
        let mut queue = Queue::new(capacity, policy);
        let mut reference = Reference { waiting: Vec::new(), dropped: (0, 0), capacity, policy };
        let (mut pushed, mut refused, mut taken, mut cleared, mut dropped) = (0, 0, 0, 0, 0);
        for step in steps {
            match step {
                Step::Push { size, counts } => {
                    pushed += 1;
                    let entry = entry(pushed, size);
                    let behind = reference.dropped.1 > 0;
                    let outcome = queue.push(&entry, if counts { Room::InAll } else { Room::Any });
                    prop_assert_eq!(outcome, reference.push(pushed, entry.len(), counts));
                    prop_assert!(
                        counts || behind || outcome == Pushed::Queued,
                        "refused although nothing is unfinished"
                    );
                    refused += u64::from(outcome == Pushed::Overflow);
                }
                Step::Take => {
                    let waiting = std::mem::take(&mut reference.waiting);
                    let expected = std::mem::take(&mut reference.dropped);
                    let (before, entries, after) = take(&mut queue);
                    taken += entries.len() as u64;
                    dropped += before + after;
                    prop_assert_eq!((before, after), expected);
                    prop_assert_eq!(entries, waiting.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
                    prop_assert!(queue.is_empty());
                }
                Step::Clear => {
                    cleared += reference.waiting.len() as u64;
                    reference.waiting.clear();
                    queue.clear();
                }
            }
            prop_assert_eq!(queue.len(), reference.waiting.len());
            let nothing = reference.waiting.is_empty() && reference.dropped == (0, 0);
            prop_assert_eq!(queue.is_empty(), nothing);
        }
        let (before, rest, after) = take(&mut queue);
        taken += rest.len() as u64;
        // Everything went somewhere, and was counted there once.
        prop_assert_eq!(pushed, taken + refused + cleared + dropped + before + after);
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
        assert_eq!(pushed, [Pushed::Queued, Pushed::Queued, Pushed::Dropped(1), Pushed::Dropped(1)]);
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
    assert_eq!(queue.push(&large, Room::InAll), Pushed::Dropped(1));
    assert_eq!(queue.push(&small, Room::InAll), Pushed::Dropped(1));
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
