//! A subscriber and the phases of its stream. Every transition is in this file.
//!
//! ```text
//!            open                   deliver_initial
//! Opening ----+----------> Initial ----------+
//!             |                              |
//!             +----------> Fetching ----> Replaying ----> Live
//!             |    the last piece |    ^     | the last page ^
//!             |                   +----|-----+               |
//!             +------------------------+---------------------+
//!
//! Live  --- all topics have ended, and everything was taken --->  Finished
//! Fetching, Replaying, Live  --- a gap, without control events --->  Broken
//! every phase                --- close --->  Closed
//! ```
//! * *Opening*: the start is not resolved yet; with a broker that may take a while.
//! * *Initial*: the application makes its snapshot; nothing newer goes out before it.
//! * *Fetching*: events that this process does not keep come from the broker, piece by piece.
//! * *Replaying*: history is read by cursor, page by page, up to the head at the time of registering.
//! * *Live*: events published since the registering, which were queued all the time.
//! * *Finished*: the client was given everything, and the end. Its stream is to be closed.
//! * *Broken*: a gap that cannot be announced, because the client wants no control events. The stream breaks off.
//! * *Closed*: most reasons let queued events go out first.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::consumer::Consumer;
use super::plan::{Fetch, Fetched, Plan, Snapshot};
use super::stall::StallRule;
use super::terms::{BrokerWakes, Membership, Terms, Times};
use super::topic_ends::Finish;
use crate::control::{self, ResetReason};
use crate::entry::{Cursor, Entry, Target};
use crate::frame::Draft;
use crate::history::{Page, Replay};
use crate::identity::{CloseReason, Identity};
use crate::ids::EventId;
use crate::pace::Pace;
use crate::queue::Queue;

/// The phase, with its own data. Many thousands of subscribers are live, so data of rare phases is boxed.
pub(super) enum Phase {
    Opening { is_open: bool },
    Initial(Box<Initial>),
    Fetching(Box<Fetching>),
    Replaying(Box<Replay>),
    Live,
    Finished,
    Broken,
    Closed { replay: Option<Box<Replay>>, has_ended: bool },
}

/// A stream that waits for the application's snapshot.
pub(super) struct Initial {
    /// The cursor that goes out where there are no initial events, and the replay that follows it.
    id: Option<EventId>,
    past: Option<Replay>,
    /// The snapshot's cursor, and the events since then that found no room in the queue.
    cursor: (u64, Option<EventId>),
    since: Option<Replay>,
}

/// A stream that waits for the broker's pieces.
pub(super) struct Fetching {
    fetch: Fetch,
    /// The replay that follows the last piece.
    replay: Option<Replay>,
}

impl Phase {
    /// Whether queued events wait for the hub or the application, not for the client.
    pub(super) fn is_held_back(&self) -> bool {
        matches!(self, Self::Opening { .. } | Self::Initial(_))
    }

    fn replaying(replay: Option<Replay>) -> Self {
        replay.map_or(Self::Live, |replay| Self::Replaying(Box::new(replay)))
    }

    /// The replay that comes before the queue.
    pub(super) fn replay(&mut self) -> Option<&mut Replay> {
        match self {
            Self::Initial(initial) => initial.since.as_mut(),
            Self::Fetching(fetching) => fetching.replay.as_mut(),
            Self::Replaying(replay) | Self::Closed { replay: Some(replay), .. } => Some(replay),
            Self::Opening { .. }
            | Self::Live
            | Self::Finished
            | Self::Broken
            | Self::Closed { replay: None, .. } => None,
        }
    }
}

/// One subscriber.
pub struct Subscriber {
    pub identity: Arc<Identity>,
    /// The topics whose events are delivered to it, in order.
    pub topics: SmallVec<[Membership; 2]>,
    /// The last event delivered to it: one published to two of its topics is delivered once.
    pub serial: u64,
    pub(super) terms: Arc<Terms>,
    pub(super) times: Times,
    /// Entries that go out before all others.
    pub(super) lead: Vec<Arc<Entry>>,
    pub(super) phase: Phase,
    pub(super) queue: Queue,
    /// Only for a stream with a rate; and only for a compressed one.
    pub(super) pace: Option<Box<Pace>>,
    pub zip: Option<Box<crate::compress::Zip>>,
    pub(super) consumer: Consumer,
    pub(super) last_write: Duration,
    /// When the client took a part of an unfinished write, and so had not stalled.
    pub(super) progress: Duration,
    pub(super) stall_rule: StallRule,
    pub(super) last_seq: u64,
    pub(super) owes_heartbeat: bool,
    pub(super) is_slow: bool,
    /// Whether its consumer ever came.
    pub(super) was_taken: bool,
    /// What it knows of the ends of its topics.
    pub(super) finish: Finish,
}

impl Subscriber {
    /// A subscriber without topics, whose stream is not open.
    #[must_use]
    pub fn new(identity: Arc<Identity>, terms: Terms, times: Times, now: Duration, turn: u64) -> Self {
        Self {
            identity,
            topics: SmallVec::new(),
            serial: 0,
            lead: Vec::new(),
            phase: Phase::Opening { is_open: false },
            queue: Queue::new(terms.capacity, terms.overflow),
            pace: terms.interval.map(|interval| Box::new(Pace::new(interval))),
            zip: terms.zip(),
            terms: Arc::new(terms),
            times,
            consumer: Consumer::Away { since: now, turn },
            last_write: now,
            progress: now,
            stall_rule: StallRule::default(),
            last_seq: 0,
            owes_heartbeat: false,
            is_slow: false,
            was_taken: false,
            finish: Finish::default(),
        }
    }

    /// Share its terms with the subscriber before, if they are the same.
    pub fn share_terms(&mut self, latest: &mut Option<Arc<Terms>>) {
        match latest {
            Some(latest) if *latest == self.terms => self.terms = latest.clone(),
            _ => *latest = Some(self.terms.clone()),
        }
    }

    /// Open the stream as the hub planned it. True when the consumer must be resumed.
    pub fn open(
        &mut self,
        plan: Plan,
        retry_ms: u64,
        now: Duration,
        turn: u64,
        wakes: &mut BrokerWakes,
    ) -> bool {
        // No id goes out before the snapshot or the reset: a client that is cut here would resume behind them.
        let id = plan.id.filter(|_| plan.snapshot.is_none());
        let cursor = id.map(|id| Cursor { seq: plan.cursor, id });
        let is_open = !matches!(self.phase, Phase::Opening { is_open: false });
        if self.terms.control {
            self.open_with_control(&plan, is_open, retry_ms, cursor, now);
        } else if !is_open || cursor.is_some() {
            self.lead.push(control::preface(retry_ms, cursor, now));
        }
        self.last_seq = plan.cursor;
        let Plan { replay, fetch, snapshot, id, reset, .. } = plan;
        let is_gap = reset.is_some() && !self.terms.control;
        self.phase = match (&self.phase, fetch, snapshot) {
            (Phase::Closed { has_ended, .. }, fetch, snapshot) => {
                wakes.extend(fetch.map(Fetch::into_next));
                let replay = replay.filter(|_| snapshot.is_none() && !is_gap).map(Box::new);
                Phase::Closed { replay, has_ended: *has_ended }
            }
            _ if is_gap => Phase::Broken,
            (_, Some(fetch), _) => Phase::Fetching(Box::new(Fetching { fetch, replay })),
            (_, None, Some(Snapshot { cursor, since })) => {
                Phase::Initial(Box::new(Initial { id, past: replay, cursor, since: Some(since) }))
            }
            (_, None, None) => Phase::replaying(replay),
        };
        self.resume(now, turn)
    }

    fn open_with_control(
        &mut self,
        plan: &Plan,
        is_open: bool,
        retry_ms: u64,
        cursor: Option<Cursor>,
        now: Duration,
    ) {
        if !is_open {
            self.lead.push(control::open(
                retry_ms,
                cursor.filter(|_| plan.reset.is_none()),
                plan.complete,
                self.times.heartbeat,
                now,
            ));
        } else if plan.reset.is_none() && plan.recovered.is_none() && plan.snapshot.is_none() {
            // A newcomer whose stream was opened before its start position was known.
            self.lead.push(control::reset(ResetReason::Broker, None, cursor, now));
        } else if let Some(cursor) = cursor.filter(|_| plan.reset.is_none()) {
            self.lead.push(control::cursor(cursor, now));
        }
        if let Some((reason, requested)) = &plan.reset {
            self.lead.push(control::reset(*reason, requested.as_deref(), cursor, now));
        }
    }

    /// Open the stream before its start position is known, without an id. True when the consumer must be resumed.
    pub fn open_early(&mut self, retry_ms: u64, now: Duration, turn: u64) -> bool {
        let Phase::Opening { is_open: is_open @ false } = &mut self.phase else { return false };
        // Without control events nothing is sent yet: the response's status may still announce a gap.
        if !self.terms.control {
            return false;
        }
        *is_open = true;
        self.lead.push(control::open(retry_ms, None, true, self.times.heartbeat, now));
        self.resume(now, turn)
    }

    /// Deliver a piece of its gap. True when the consumer must be resumed.
    pub fn deliver_piece(&mut self, piece: Fetched, now: Duration, turn: u64) -> bool {
        let Phase::Fetching(fetching) = &mut self.phase else { return false };
        fetching.fetch.piece = Some(piece);
        self.resume(now, turn)
    }

    /// Deliver the application's initial events; true when the consumer must be resumed. The last one carries the
    /// cursor's id: with the id on an earlier one, a client that lost its connection between the two would resume
    /// behind the rest. Without events the cursor goes out alone, and then the replay that was requested.
    pub fn deliver_initial(&mut self, events: Vec<Draft>, now: Duration, turn: u64) -> bool {
        let Phase::Initial(initial) = &mut self.phase else { return false };
        let (past, since) = (initial.past.take(), initial.since.take());
        let since = since.filter(|since| since.until() > initial.cursor.0);
        if events.is_empty() {
            let (id, until) = (initial.id, since.as_ref().map_or(0, Replay::until));
            let past = past.map(|mut past| {
                past.extend(until);
                past
            });
            self.phase = Phase::replaying(past.or(since));
            if let Some(id) = id {
                let alone = if self.terms.control { control::cursor } else { control::bare_id };
                self.lead.push(alone(Cursor { seq: self.last_seq, id }, now));
            }
            return self.resume(now, turn);
        }
        let (seq, id) = initial.cursor;
        self.last_seq = seq;
        self.phase = Phase::replaying(since);
        let last = events.len() - 1;
        for (at, event) in events.into_iter().enumerate() {
            let id = id.filter(|_| at == last);
            let target = Target::One(self.identity.id);
            let seq = id.map(|_| seq);
            self.lead.push(Arc::new(Entry::new(seq, target, now, event.seal(id)).named(id)));
        }
        self.resume(now, turn)
    }

    /// The order breaks. Nothing before the break can be replayed, and entries that wait behind a replay do not follow
    /// what the client has: the `stream-reset` stands for all of them.
    pub(super) fn break_off(&mut self, wakes: &mut BrokerWakes) {
        if !self.terms.control && !matches!(self.phase, Phase::Closed { .. }) {
            self.leave_phase(Phase::Broken, wakes);
            self.queue.start_over();
            return;
        }
        if self.phase.replay().is_none() {
            return;
        }
        self.queue.start_over();
        match &mut self.phase {
            // The snapshot still comes first.
            Phase::Initial(initial) => {
                initial.past = None;
                initial.since = None;
            }
            Phase::Closed { replay, .. } => *replay = None,
            _ => self.leave_phase(Phase::Live, wakes),
        }
    }

    /// Close the stream: nothing more is queued.
    pub fn close(&mut self, reason: CloseReason, wakes: &mut BrokerWakes) {
        let drains = reason.drains();
        if !drains {
            self.lead = Vec::new();
        }
        // A stream that ends waits neither for a snapshot nor for the broker. Newer entries would make the client
        // resume behind them, by their ids.
        if !drains || !matches!(self.phase, Phase::Replaying(_) | Phase::Live) {
            self.queue.clear();
            self.forget_end();
        }
        let replay = match std::mem::replace(&mut self.phase, Phase::Live) {
            Phase::Replaying(replay) if drains => Some(replay),
            left => {
                self.phase = left;
                None
            }
        };
        self.leave_phase(Phase::Closed { replay, has_ended: false }, wakes);
        let _ = self.identity.closed.set(reason);
    }

    /// Go on to `next`. The broker learns that no more pieces are needed.
    fn leave_phase(&mut self, next: Phase, wakes: &mut BrokerWakes) {
        if let Phase::Fetching(fetching) = std::mem::replace(&mut self.phase, next) {
            wakes.push(fetching.fetch.into_next());
        }
    }

    /// The subscriber is removed: the broker learns that no more pieces are needed.
    pub fn abandon(self, wakes: &mut BrokerWakes) {
        if let Phase::Fetching(fetching) = self.phase {
            wakes.push(fetching.fetch.into_next());
        }
    }

    /// Events are missing here: announce it by this entry. Without control events the stream breaks off
    /// behind what goes out before.
    fn announce_gap(&mut self, announcement: impl FnOnce() -> Arc<Entry>, out: &mut Vec<Arc<Entry>>) {
        if self.terms.control {
            out.push(announcement());
        } else {
            self.phase = Phase::Broken;
        }
    }

    /// Take the entries that come before the queue. True when the queue comes next.
    pub(super) fn take_before_queue(
        &mut self,
        now: Duration,
        page: &mut dyn FnMut(&mut Replay) -> Page,
        out: &mut Vec<Arc<Entry>>,
        wakes: &mut BrokerWakes,
    ) -> bool {
        if let Phase::Fetching(fetching) = &mut self.phase {
            let Some(mut piece) = fetching.fetch.piece.take() else { return false };
            wakes.push(fetching.fetch.next());
            fetching.replay.iter_mut().for_each(|replay| replay.add(piece.entries.len()));
            if piece.done {
                self.phase = Phase::replaying(fetching.replay.take());
            }
            if piece.lost {
                self.announce_gap(|| control::reset(ResetReason::Evicted, None, None, now), out);
            }
            if matches!(self.phase, Phase::Broken) {
                return false;
            }
            out.append(&mut piece.entries);
        }
        if let Phase::Replaying(replay) | Phase::Closed { replay: Some(replay), .. } = &mut self.phase {
            let mut piece = page(replay);
            if piece.done {
                match &mut self.phase {
                    Phase::Closed { replay, .. } => *replay = None,
                    phase => *phase = Phase::Live,
                }
            }
            if piece.lost {
                self.announce_gap(|| control::reset(ResetReason::Evicted, None, None, now), out);
            }
            if matches!(self.phase, Phase::Broken) {
                return false;
            }
            out.append(&mut piece.entries);
        }
        matches!(self.phase, Phase::Live | Phase::Closed { replay: None, .. })
    }

    /// Take the queue's entries, or the first of them.
    pub(super) fn take_queue(&mut self, now: Duration, out: &mut Vec<Arc<Entry>>) {
        let most = self.most_at_once(now);
        let (before, entries, after) = self.queue.take(most);
        if !self.terms.control && before > 0 {
            drop(entries);
            self.queue.shrink();
            self.phase = Phase::Broken;
            return;
        }
        if before > 0 {
            out.push(control::lagged(before, now));
        }
        out.extend(entries);
        self.queue.shrink();
        if after > 0 {
            self.announce_gap(|| control::lagged(after, now), out);
        }
    }
}
