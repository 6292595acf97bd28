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

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::broker::outcome::Outcome;
use crate::control;
use crate::control::ResetReason;
use crate::entry::{Cursor, Entry, PublicId, SubscriberId, Target};
use crate::event::EventId;
use crate::frame::Draft;
use crate::heartbeat::{Heartbeat, look_after};
use crate::history::{Page, Replay};
use crate::queue::{Capacity, OverflowPolicy, Pushed, Queue};
use crate::reader::ReaderId;
use crate::topic::TopicIds;
use crate::waker::Wake;

/// A consumer that was woken counts as stuck behind an unfinished write when it has not come back for this
/// many turns of its reader *and* [`STUCK_AFTER`]: middleware may need several turns of the event loop to
/// pass one chunk on, and a loop that was blocked has not let it run.
const STUCK_TURNS: u64 = 8;
/// See [`STUCK_TURNS`].
const STUCK_AFTER: Duration = Duration::from_millis(20);

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The client went away.
    Client,
    /// The application closed or dropped the subscription.
    Closed,
    /// `disconnect` was called, for this reason.
    Kicked(Arc<str>),
    /// More waited behind an unfinished write than may, and the policy is to disconnect.
    Overflow,
    /// The client took nothing for `stall_timeout`.
    Stalled,
    /// The stream reached its `max_age`.
    MaxAge,
    /// The hub closed.
    HubClosed,
    /// The server is stopping.
    Shutdown,
}

impl CloseReason {
    /// The word handed to `on_disconnect`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Client => "client",
            Self::Closed => "closed",
            Self::Kicked(reason) => reason,
            Self::Overflow => "overflow",
            Self::Stalled => "stalled",
            Self::MaxAge => "max_age",
            Self::HubClosed => "hub_closed",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether what is queued still goes out.
    #[must_use]
    pub fn drains(&self) -> bool {
        !matches!(self, Self::Client | Self::Overflow | Self::Stalled)
    }
}

/// What is known of a subscriber outside its reader.
pub struct Identity {
    /// Its number.
    pub id: SubscriberId,
    /// Whose it is, for `disconnect(user=…)`.
    pub user: Option<Arc<str>>,
    /// The server that handed its connection over; 0 for one that streams it itself.
    pub server: u64,
    /// The reader that delivers to it.
    pub reader: ReaderId,
    /// Where it is at that reader.
    pub key: usize,
    /// Who it is now, once it was moved to another reader: what holds for it is said there.
    pub moved: OnceLock<Arc<Identity>>,
    /// Whether another reader had it before.
    pub is_moved: bool,
    /// Whether it resumed completely; none for a newcomer. Set on joining.
    pub recovered: OnceLock<Option<bool>>,
    /// Why it was closed, once it is.
    pub closed: OnceLock<CloseReason>,
    /// The names of the topics it had, once it is gone.
    pub last_topics: OnceLock<Vec<Arc<str>>>,
    /// Done when it is known where it begins; none when that was known at once.
    pub settling: OnceLock<Arc<Outcome>>,
}

impl Identity {
    /// Its public id.
    #[must_use]
    pub fn name(&self) -> PublicId {
        self.id.public()
    }

    /// The same subscriber, at another reader.
    #[must_use]
    pub fn at(&self, reader: ReaderId, key: usize, server: u64) -> Self {
        Self {
            id: self.id,
            user: self.user.clone(),
            server,
            reader,
            key,
            moved: OnceLock::new(),
            is_moved: true,
            recovered: self.recovered.clone(),
            closed: self.closed.clone(),
            last_topics: self.last_topics.clone(),
            settling: self.settling.clone(),
        }
    }

    /// Who it is now.
    #[must_use]
    pub fn current(self: &Arc<Self>) -> &Arc<Self> {
        let mut now = self;
        while let Some(next) = now.moved.get() {
            now = next;
        }
        now
    }
}

/// Who is meant by a kick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// One subscriber.
    Id(SubscriberId),
    /// All of a user's.
    User(Arc<str>),
    /// All that a server handed over.
    Server(u64),
    /// All that were moved from one reader to another.
    Moved,
    /// Everybody.
    All,
}

impl Who {
    /// Whether it is this subscriber.
    #[must_use]
    pub fn means(&self, identity: &Identity) -> bool {
        match self {
            Self::Id(id) => identity.id == *id,
            Self::User(user) => identity.user.as_ref() == Some(user),
            Self::Server(server) => identity.server == *server,
            Self::Moved => identity.is_moved,
            Self::All => true,
        }
    }
}

/// A change of who gets what, in the order of the log.
#[derive(Debug)]
pub enum Change {
    /// A subscriber begins.
    Attach {
        /// The reader it belongs to.
        reader: ReaderId,
        /// Its number.
        subscriber: SubscriberId,
        /// Its place at the reader.
        key: usize,
        /// Its topics.
        topics: TopicIds,
    },
    /// It gets more topics.
    Join {
        /// Its number.
        subscriber: SubscriberId,
        /// The new ones.
        topics: TopicIds,
    },
    /// It gets fewer topics.
    Leave {
        /// Its number.
        subscriber: SubscriberId,
        /// The ones to leave.
        topics: TopicIds,
    },
    /// Streams end.
    Close {
        /// Whose.
        who: Who,
        /// Why.
        reason: CloseReason,
    },
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

/// How a stream begins: what the hub decided on joining.
pub struct Plan {
    /// The cursor at which it joined.
    pub cursor: u64,
    /// The id of `stream-open`, or of the end of the initial events; none when it is not known.
    pub id: Option<EventId>,
    /// Why it cannot be resumed, with the id the client gave.
    pub reset: Option<(ResetReason, Option<Box<str>>)>,
    /// What is read from history first.
    pub replay: Option<Replay>,
    /// What is fetched from elsewhere even before that.
    pub fetch: Option<Fetch>,
    /// Whether the application's initial events are awaited.
    pub initial: bool,
    /// For `recovered`.
    pub recovered: Option<bool>,
}

/// A piece of what a client missed, from elsewhere.
#[derive(Default)]
pub struct Fetched {
    /// In order.
    pub entries: Vec<Arc<Entry>>,
    /// What comes between the last piece and this one is not to be had any more.
    pub lost: bool,
    /// There is nothing after this piece.
    pub done: bool,
}

/// What is being fetched for one subscriber.
pub struct Fetch {
    next: Box<dyn Wake>,
    piece: Option<Fetched>,
}

impl Fetch {
    /// Nothing was fetched yet. `next` is woken when the next piece is wanted, and when none is any more.
    #[must_use]
    pub fn new(next: Box<dyn Wake>) -> Self {
        Self { next, piece: Some(Fetched::default()) }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.next.wake();
    }
}

#[derive(Debug)]
enum Consumer {
    /// It waits to be woken.
    Parked,
    /// It was woken or took something and has not come back.
    Away { since: Duration, turn: u64 },
}

/// How far its consumer is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// It has not come yet.
    New,
    /// It came.
    Begun,
    /// It was told of the end.
    Over,
}

/// What [`Subscriber::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There is something to write; come again when that is done.
    Some,
    /// There is something to write, and nothing after it: the consumer is parked already, as if that were done.
    /// Only for one that asked for it.
    Last,
    /// Nothing yet: the consumer is parked.
    Nothing,
    /// The stream is over.
    End,
}

/// What is due at a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// It has been silent for too long, and is parked.
    Heartbeat,
    /// It must end.
    Close(CloseReason),
}

/// One subscriber.
pub struct Subscriber {
    /// What is known of it outside.
    pub identity: Arc<Identity>,
    /// The topics it is dispatched by.
    pub topics: TopicIds,
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
            topics: TopicIds::new(),
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
        let stuck = self.is_stuck(now, turn);
        // One that is busy with a replay takes what it can: what its queue has no room for, the replay reads
        // from history. Cut instead, it would come back as far behind as before, and be cut again.
        if stuck
            && let (Some(replay), Some(seq)) = (&mut self.replay, entry.seq)
            && replay.covers(&self.topics)
            && self.queue.give_to_history(entry, |entry| replay.reads(entry))
        {
            replay.extend(seq);
            return Pushed::Queued;
        }
        self.queue.push(entry, stuck)
    }

    /// Whether it waits behind an unfinished write.
    fn is_stuck(&self, now: Duration, turn: u64) -> bool {
        match self.consumer {
            // What is fetched for it comes first, however long that takes: history may take over.
            _ if self.fetch.is_some() => true,
            Consumer::Parked => false,
            // What is made ready for a newcomer is not its write.
            Consumer::Away { .. } if self.initial => false,
            Consumer::Away { since, turn: woken } => {
                turn.saturating_sub(woken) >= STUCK_TURNS && now.saturating_sub(since) >= STUCK_AFTER
            }
        }
    }

    /// Whether the parked consumer has something to come for. It then counts as away.
    pub fn wake(&mut self, now: Duration, turn: u64) -> bool {
        let parked = matches!(self.consumer, Consumer::Parked);
        if parked {
            self.consumer = Consumer::Away { since: now, turn };
        }
        parked
    }

    /// The consumer is here: give it what there is. `page` reads history.
    pub fn take(
        &mut self,
        now: Duration,
        turn: u64,
        heartbeat: &mut dyn FnMut(u64) -> Arc<Entry>,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
    ) -> Taken {
        self.stage = Stage::Begun;
        let (closed, drains) = match self.identity.closed.get() {
            None => (false, true),
            Some(reason) => (true, reason.drains()),
        };
        if !drains {
            self.stage = Stage::Over;
            return Taken::End;
        }
        // With its memory: most clients have nothing of their own to say ever again.
        out.extend(std::mem::take(&mut self.lead));
        if !self.initial {
            self.take_fetched(now, out);
            if self.fetch.is_none() {
                self.take_replay(now, page, out);
            }
            if self.fetch.is_none() && self.replay.is_none() {
                self.take_queue(now, out);
            }
        }
        if out.is_empty() {
            if closed {
                self.stage = Stage::Over;
                return Taken::End;
            }
            if !self.owes_heartbeat {
                self.consumer = Consumer::Parked;
                return Taken::Nothing;
            }
            out.push(heartbeat(self.heartbeat_from()));
        }
        self.owes_heartbeat = false;
        self.last_write = now;
        self.consumer = Consumer::Away { since: now, turn };
        for entry in out.iter() {
            self.last_seq = self.last_seq.max(entry.seq.unwrap_or(0));
        }
        Taken::Some
    }

    /// The consumer took something and is about to write it all at once: have it wait for what comes next, unless
    /// there is more, or the end. Whether it waits.
    pub fn park(&mut self) -> bool {
        let is_last = self.replay.is_none() && self.identity.closed.get().is_none();
        if is_last {
            self.consumer = Consumer::Parked;
        }
        is_last
    }

    /// The consumer was parked and could not write everything.
    pub fn blocked(&mut self, now: Duration, turn: u64) {
        self.consumer = Consumer::Away { since: now, turn };
    }

    /// A part of what it took went out.
    pub fn progressed(&mut self, now: Duration) {
        self.progress = now;
    }

    fn take_fetched(&mut self, now: Duration, out: &mut Vec<Arc<Entry>>) {
        let Some(fetch) = &mut self.fetch else { return };
        let Some(mut piece) = fetch.piece.take() else { return };
        if piece.lost {
            out.push(control::reset(ResetReason::Evicted, None, None, now));
        }
        out.append(&mut piece.entries);
        if piece.done {
            self.fetch = None;
        } else {
            fetch.next.wake();
        }
    }

    fn take_replay(
        &mut self,
        now: Duration,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
    ) {
        let Some(replay) = &mut self.replay else { return };
        let mut piece = page(replay);
        if piece.lost {
            out.push(control::reset(ResetReason::Evicted, None, None, now));
        }
        out.append(&mut piece.entries);
        if piece.done {
            self.replay = None;
        }
    }

    fn take_queue(&mut self, now: Duration, out: &mut Vec<Arc<Entry>>) {
        let (before, entries, after) = self.queue.take();
        if before > 0 {
            out.push(control::lagged(before, now));
        }
        out.extend(entries);
        if after > 0 {
            out.push(control::lagged(after, now));
        }
        self.queue.shrink();
    }

    /// When to look at it again.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Duration {
        let beat = |heartbeat: Heartbeat| heartbeat.after(self.last_write);
        let silence = match self.consumer {
            // It may go away unnoticed at any moment, but cannot have stalled before it was away for as long.
            Consumer::Parked => {
                let look = look_after(now, self.terms.stall_timeout);
                self.terms.heartbeat.map_or(look, |heartbeat| look.min(beat(heartbeat)))
            }
            Consumer::Away { since, .. } => {
                let stall = since.max(self.progress) + self.terms.stall_timeout;
                match self.terms.heartbeat {
                    Some(heartbeat) if !self.owes_heartbeat => stall.min(beat(heartbeat)),
                    // It may come back any moment, and be silent from then on: nothing tells of that, so look
                    // at least this often.
                    Some(heartbeat) => stall.min(heartbeat.after(now)),
                    None => stall,
                }
            }
        };
        self.terms.expires.map_or(silence, |expires| silence.min(expires))
    }

    /// What is due now.
    pub fn due(&mut self, now: Duration) -> Due {
        if self.terms.expires.is_some_and(|at| now >= at) {
            return Due::Close(CloseReason::MaxAge);
        }
        let silent = self.terms.heartbeat.is_some_and(|heartbeat| now >= heartbeat.after(self.last_write));
        match self.consumer {
            Consumer::Parked if silent => Due::Heartbeat,
            Consumer::Parked => Due::Nothing,
            Consumer::Away { since, .. } => {
                self.owes_heartbeat |= silent;
                let waits = self.owes_heartbeat || !self.queue.is_empty() || !self.lead.is_empty();
                let is_late = now >= since.max(self.progress) + self.terms.stall_timeout;
                if is_late && waits && !self.initial {
                    return Due::Close(CloseReason::Stalled);
                }
                if is_late {
                    // Nothing was kept from it: the application is slow with what it took. Look again later.
                    self.consumer = Consumer::Away { since: now, turn: 0 };
                }
                Due::Nothing
            }
        }
    }

    /// The cursor a heartbeat may speak of: 0 while an id would skip something.
    #[must_use]
    pub fn heartbeat_from(&self) -> u64 {
        if self.initial || self.fetch.is_some() { u64::MAX } else { self.last_seq }
    }

    /// Send a heartbeat to a parked consumer.
    pub fn beat(&mut self, heartbeat: Arc<Entry>, now: Duration) {
        self.last_write = now;
        self.lead.push(heartbeat);
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

    /// Whether anything was ever taken, or asked for.
    #[must_use]
    pub fn was_taken(&self) -> bool {
        self.stage != Stage::New
    }

    /// It is at another reader from now on. Its consumer is new, and counts as away as that of a newcomer.
    pub fn arrive(&mut self, identity: Arc<Identity>, now: Duration, turn: u64, serial: u64) {
        self.identity = identity;
        self.topics = TopicIds::new();
        self.serial = serial;
        self.consumer = Consumer::Away { since: now, turn };
    }

    /// Put an event in its queue that was published before it was moved, and not dispatched yet: what the hub
    /// has yet to offer waits behind no write. How many events were dropped.
    pub fn catch_up(&mut self, entry: &Arc<Entry>) -> u64 {
        match self.queue.push(entry, false) {
            Pushed::Dropped(n) => n,
            Pushed::Queued | Pushed::Overflow => 0,
        }
    }

    /// Whether it was told of its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::Over
    }
}
