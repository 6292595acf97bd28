//! One subscriber, as a state machine: values in, values out; time is an argument.
//!
//! ```text
//! Opening -> [Initial] -> [Replaying] -> Live -> Closed(reason)
//! ```
//! * *Opening*: `stream-open`, and `stream-reset` where history does not reach back to the client's id.
//! * *Initial*: the application makes its snapshot; nothing newer goes out before it.
//! * *Replaying*: history is read by cursor, page by page, up to the head at the time of joining; what this
//!   process does not keep is fetched from the broker before that, also piece by piece.
//! * *Live*: what was published since the joining, which was queued all the time.
//! * *Closed*: most reasons let what is queued go out first; an overflow or a stall does not.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::control::{self, ResetReason};
use crate::entry::{Cursor, Entry, Target};
use crate::frame::Draft;
use crate::heartbeat::Heartbeat;
use crate::history::Replay;
use crate::ids::EventId;
use crate::queue::{Capacity, OverflowPolicy, Pushed, Queue};
use crate::topic::{TopicId, TopicIds};

mod consumer;
mod plan;
mod silence;

use crate::identity::{CloseReason, Identity};
pub use consumer::Taken;
pub use plan::{Fetch, Fetched, Plan};
pub use silence::Due;

use consumer::{Consumer, Stage};
use silence::StallRule;

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
    lead: Vec<Arc<Entry>>,
    opened: bool,
    initial: bool,
    // Few have any of these at a time, and there may be many thousands of them: each is a pointer.
    /// The id of the end of the initial events, while they are awaited.
    cursor_id: Option<Box<EventId>>,
    fetch: Option<Box<Fetch>>,
    replay: Option<Box<Replay>>,
    queue: Queue,
    consumer: Consumer,
    last_write: Duration,
    /// When a part of an unfinished write was taken: it is slow, but not stalled.
    progress: Duration,
    stall_rule: StallRule,
    last_seq: u64,
    owes_heartbeat: bool,
    stage: Stage,
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
            opened: false,
            initial: true,
            cursor_id: None,
            fetch: None,
            replay: None,
            queue,
            consumer: Consumer::Away { since: now, turn },
            last_write: now,
            progress: now,
            stall_rule: StallRule::default(),
            last_seq: 0,
            owes_heartbeat: false,
            stage: Stage::New,
        }
    }

    /// It joined: begin as the hub decided. True when the consumer is to be woken.
    pub fn begin(&mut self, plan: Plan, retry_ms: u64, now: Duration, turn: u64) -> bool {
        // Without the snapshot, or the reset, an id would be a lie: a client cut before would resume past it.
        let id = plan.id.filter(|_| !plan.initial);
        let cursor = id.map(|id| Cursor { seq: plan.cursor, id });
        if !std::mem::replace(&mut self.opened, true) {
            self.lead.push(control::open(retry_ms, cursor.filter(|_| plan.reset.is_none()), now));
        } else if plan.reset.is_none() && plan.recovered.is_none() && !plan.initial {
            // A newcomer that was told it is here, while nobody knew where that is.
            self.lead.push(control::reset(ResetReason::Broker, None, cursor, now));
        } else if let Some(cursor) = cursor.filter(|_| plan.reset.is_none()) {
            self.lead.push(control::cursor(cursor, now));
        }
        if let Some((reason, requested)) = &plan.reset {
            self.lead.push(control::reset(*reason, requested.as_deref(), cursor, now));
        }
        let closed = self.identity.closed.get().is_some();
        self.initial = plan.initial && !closed;
        self.cursor_id = plan.id.filter(|_| self.initial).map(Box::new);
        self.fetch = plan.fetch.filter(|_| !closed).map(Box::new);
        self.replay = plan.replay.map(Box::new);
        self.last_seq = plan.cursor;
        self.wake(now, turn)
    }

    /// Where it begins is not known yet, and will not be soon: open the stream without an id. True when the
    /// consumer is to be woken.
    pub fn open_early(&mut self, retry_ms: u64, now: Duration, turn: u64) -> bool {
        if self.identity.closed.get().is_some() || std::mem::replace(&mut self.opened, true) {
            return false;
        }
        self.lead.push(control::open(retry_ms, None, now));
        self.wake(now, turn)
    }

    /// Whether a piece of what it missed is to come.
    #[must_use]
    pub fn waits_for_piece(&self) -> bool {
        self.fetch.is_some()
    }

    /// A piece of what it missed is here. True when the consumer is to be woken.
    pub fn fetched(&mut self, piece: Fetched, now: Duration, turn: u64) -> bool {
        let Some(fetch) = &mut self.fetch else { return false };
        fetch.piece = Some(piece);
        self.wake(now, turn)
    }

    /// The application's initial events are complete; true when the consumer is to be woken. The last one
    /// carries the cursor's id: with it on an earlier one, a client cut between the two would resume past the
    /// rest. Without any event the cursor goes out alone.
    pub fn initial_done(&mut self, events: Vec<Draft>, now: Duration, turn: u64) -> bool {
        if !self.initial {
            return false;
        }
        self.initial = false;
        let id = self.cursor_id.take().map(|id| *id);
        if let Some(id) = id.filter(|_| events.is_empty()) {
            self.lead.push(control::cursor(Cursor { seq: self.last_seq, id }, now));
        }
        let last = events.len().saturating_sub(1);
        for (at, event) in events.into_iter().enumerate() {
            let id = id.filter(|_| at == last);
            let target = Target::One(self.identity.id);
            let seq = id.map(|_| self.last_seq);
            self.lead.push(Arc::new(Entry::new(seq, target, now, event.seal(id)).named(id)));
        }
        self.wake(now, turn)
    }

    /// Put a published event in its queue.
    pub fn push(&mut self, entry: &Arc<Entry>, now: Duration, turn: u64) -> Pushed {
        self.break_off(entry);
        let stuck = self.is_stuck(now, turn);
        // One that is busy with a replay takes what it can: what its queue has no room for, the replay reads
        // from history. Cut instead, it would come back as far behind as before, and be cut again.
        if stuck
            && let (Some(replay), Some(seq)) = (&mut self.replay, entry.seq)
            && replay.covers(&ids(&self.topics))
            && self.queue.give_to_history(entry, |entry| replay.reads(entry))
        {
            replay.extend(seq);
            return Pushed::Queued;
        }
        self.queue.push(entry, stuck)
    }

    /// Where the order goes on somewhere else, nothing can be replayed any more, and what waits behind a replay does
    /// not follow what it has: of all that, the client is told by the `stream-reset` alone.
    fn break_off(&mut self, entry: &Entry) {
        if entry.is_break && (self.fetch.is_some() || self.replay.is_some()) {
            self.fetch = None;
            self.replay = None;
            self.queue.start_over();
        }
    }

    /// Nothing more will be queued.
    pub fn close(&mut self, reason: CloseReason) {
        if !reason.drains() {
            self.lead = Vec::new();
        }
        // A stream that ends does not wait for the application's snapshot; what is newer, with its ids, would
        // make the client resume past it.
        if !reason.drains() || self.initial || self.fetch.is_some() {
            self.queue.clear();
            self.fetch = None;
            self.replay = None;
        }
        self.initial = false;
        let _ = self.identity.closed.set(reason);
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

    /// Put an event in its queue that was published before it was moved, and not dispatched yet: what the hub
    /// has yet to offer waits behind no write. How many events were dropped.
    pub fn catch_up(&mut self, entry: &Arc<Entry>) -> u64 {
        self.break_off(entry);
        match self.queue.push(entry, false) {
            Pushed::Dropped(n) => n,
            Pushed::Queued | Pushed::Overflow => 0,
        }
    }
}
