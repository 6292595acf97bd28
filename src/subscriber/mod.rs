//! One subscriber, as a state machine: values in, values out; time is an argument. `phase` has its states and their diagram.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::entry::Entry;
use crate::heartbeat::Heartbeat;
use crate::queue::{Capacity, OverflowPolicy, Pushed, Queue, Room};
use crate::topic::{TopicId, TopicIds};
use crate::waker::Wake;

mod consumer;
mod phase;
mod plan;
mod silence;

use crate::identity::Identity;
pub use consumer::Taken;
pub use plan::{Fetch, Fetched, Plan, Snapshot};
pub use silence::Due;

use consumer::Consumer;
use phase::Phase;
use silence::StallRule;

/// Brokers to wake once the reader is unlocked: the next piece of what a client missed is wanted, or none is any
/// more. What a transition leaves to do is returned or collected; nothing is called from inside.
pub type Asks = Vec<Arc<dyn Wake>>;

/// A topic that a subscriber is dispatched by, and its place in the reader's list of those who are.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// The topic.
    pub topic: TopicId,
    /// From 0.
    pub place: usize,
}

fn ids(topics: &[Membership]) -> TopicIds {
    topics.iter().map(|found| found.topic).collect()
}

/// What one subscriber is allowed and promised.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How much may wait behind an unfinished write.
    pub capacity: Capacity,
    /// What happens beyond.
    pub overflow: OverflowPolicy,
    /// When it gets heartbeats; none switches them off.
    pub heartbeat: Option<Heartbeat>,
    /// Longest time it may take nothing.
    pub stall_timeout: Duration,
    /// When the stream ends of itself, on the hub's clock.
    pub expires: Option<Duration>,
    /// Whether the client gets the hub's own events. Without them, a gap breaks the stream off.
    pub control: bool,
}

/// One subscriber.
pub struct Subscriber {
    /// What is known of it outside.
    pub identity: Arc<Identity>,
    /// The topics it is dispatched by.
    pub topics: SmallVec<[Membership; 2]>,
    /// The last event dispatched to it: one published to two of its topics is dispatched once.
    pub serial: u64,
    terms: Terms,
    /// What goes out before anything else.
    lead: Vec<Arc<Entry>>,
    phase: Phase,
    queue: Queue,
    consumer: Consumer,
    last_write: Duration,
    /// When a part of an unfinished write was taken: it is slow, but not stalled.
    progress: Duration,
    stall_rule: StallRule,
    last_seq: u64,
    owes_heartbeat: bool,
    /// Its consumer came.
    was_taken: bool,
}

impl Subscriber {
    /// A subscriber that has joined nothing yet.
    #[must_use]
    pub fn new(identity: Arc<Identity>, terms: Terms, now: Duration, turn: u64) -> Self {
        let queue = Queue::new(terms.capacity, terms.overflow);
        Self {
            identity,
            topics: SmallVec::new(),
            serial: 0,
            terms,
            lead: Vec::new(),
            phase: Phase::Opening { is_open: false },
            queue,
            consumer: Consumer::Away { since: now, turn },
            last_write: now,
            progress: now,
            stall_rule: StallRule::default(),
            last_seq: 0,
            owes_heartbeat: false,
            was_taken: false,
        }
    }

    /// Put a published event in its queue.
    pub fn push(&mut self, entry: &Arc<Entry>, now: Duration, turn: u64, asks: &mut Asks) -> Pushed {
        if entry.is_break {
            self.break_off(asks);
        }
        if matches!(self.phase, Phase::Broken) {
            return Pushed::Queued;
        }
        let room = self.room(now, turn);
        // One that is busy with a replay takes what it can: what its queue has no room for, the replay reads
        // from history. Cut instead, it would come back as far behind as before, and be cut again.
        if room != Room::Any
            && let (Some(replay), Some(seq)) = (self.phase.replay(), entry.seq)
            && replay.covers(&ids(&self.topics))
            && self.queue.give_to_history(entry, room, |entry| replay.reads(entry))
        {
            replay.extend(seq);
            return Pushed::Queued;
        }
        self.queue.push(entry, room)
    }

    /// The topics it is dispatched by.
    #[must_use]
    pub fn topic_ids(&self) -> TopicIds {
        ids(&self.topics)
    }

    /// It is at another reader from now on. Its consumer is new, and counts as away as that of a newcomer.
    pub fn arrive(&mut self, identity: Arc<Identity>, now: Duration, turn: u64, serial: u64) {
        self.identity = identity;
        self.topics = SmallVec::new();
        self.serial = serial;
        self.consumer = Consumer::Away { since: now, turn };
        self.stall_rule = StallRule::default();
    }

    /// Put an event in its queue that was published, and not dispatched yet, before it left its reader or was
    /// closed: what the hub has yet to offer waits behind no write. How many events were dropped.
    pub fn catch_up(&mut self, entry: &Arc<Entry>, asks: &mut Asks) -> u64 {
        if entry.is_break {
            self.break_off(asks);
        }
        if matches!(self.phase, Phase::Broken) {
            return 0;
        }
        match self.queue.push(entry, Room::Any) {
            Pushed::Dropped(n) => n,
            Pushed::Queued | Pushed::Overflow => 0,
        }
    }

    /// Bytes that wait for the application's snapshot; `None` when it makes none.
    #[must_use]
    pub fn waits_for_initial(&self) -> Option<usize> {
        matches!(self.phase, Phase::Initial(_)).then(|| self.queue.bytes())
    }
}
