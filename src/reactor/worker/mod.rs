//! The work of the reactor's thread: one round after the other over sockets, commands, the log and timers.

mod close;
mod serve;
mod watch;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Events;
use slab::Slab;

use super::Listener;
use super::coalesce::Coalesced;
use super::connection::{Connection, Phase};
use super::rounds::Rounds;
use super::shared::{Command, Shared};
use super::signal::Heard;
use super::sockets::SIGNAL;
use crate::entry::Entry;
use crate::hub::Hub;
use crate::identity::CloseReason;
use crate::ids::SubscriberId;
use crate::reader::{Effects, Next, Reader};

/// The longest time between two polls.
const SLICE: Duration = Duration::from_millis(1);
/// Heartbeats and stall checks that are due within this time of each other cost one wake-up: with thousands of
/// clients there is hardly a millisecond in which none is due.
const TICK_MS: u64 = 20;
/// How soon the log is drained again while events follow each other closely, if nothing wakes the thread before.
const SOON: Duration = Duration::from_millis(1);
const VACANT: usize = usize::MAX;

pub struct Worker {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
    connections: Slab<Connection>,
    /// Connections by their subscriber's key at the reader.
    by_key: Vec<usize>,
    /// Connections by the number of their descriptor.
    by_fd: Vec<usize>,
    /// Connections to serve, in this order.
    schedule: VecDeque<usize>,
    /// How many of them the last drain left. The log is not drained again before these were served: a client that
    /// waits for its turn is not late, and publishers that are faster than the schedule run into `backlog_bytes`,
    /// not into the clients' limits.
    before_drain: usize,
    /// When the oldest event of the last drain was published, until its connections were served.
    published: Option<Duration>,
    owes_drain: bool,
    /// When it drains again, on the hub's clock, where it has promised to.
    promised: Option<Duration>,
    /// When to close, or to check, connections whose stream is over.
    ending: BinaryHeap<Reverse<(Instant, usize, SubscriberId)>>,
    effects: Effects,
    out: Vec<Arc<Entry>>,
    coalesced: Coalesced,
    /// When the hub needs its next tick, on the hub's clock.
    next: Next,
    rounds: Rounds,
    /// Whether there was a connection since the last round.
    has_clients: bool,
    /// When the sleeping thread will wake.
    wakes: Due,
    stopping: bool,
}

/// When the worker has something to do, if nothing else happens: on the hub's clock, and by the system's.
#[derive(Clone, Copy, Default)]
struct Due {
    is_now: bool,
    hub: Option<Duration>,
    ending: Option<Instant>,
}

impl Due {
    fn is_before(self, other: Self) -> bool {
        fn is_before<T: Ord>(one: Option<T>, other: Option<T>) -> bool {
            one.is_some_and(|one| other.is_none_or(|other| one < other))
        }
        self.is_now || is_before(self.hub, other.hub) || is_before(self.ending, other.ending)
    }
}

/// What a thread did that stood in for the worker's own.
pub struct Served {
    /// The clients that it looked after.
    pub clients: usize,
    /// Whether the worker's thread must be woken.
    pub is_more: bool,
}

impl Worker {
    pub fn new(hub: Arc<Hub>, reader: Arc<Reader>, shared: Arc<Shared>, listener: Box<dyn Listener>) -> Self {
        let rounds = Rounds::new(hub.config.stall_timeout, hub.clock.now());
        Self {
            hub,
            reader,
            shared,
            listener,
            connections: Slab::new(),
            by_key: Vec::new(),
            by_fd: Vec::new(),
            schedule: VecDeque::new(),
            before_drain: 0,
            published: None,
            owes_drain: false,
            promised: None,
            ending: BinaryHeap::new(),
            effects: Effects::default(),
            out: Vec::new(),
            coalesced: Coalesced::default(),
            next: Next::default(),
            rounds,
            has_clients: false,
            wakes: Due::default(),
            stopping: false,
        }
    }

    /// One round, for what the thread has found when it woke. False when it is to end.
    pub fn work(&mut self, events: &Events, heard: &Heard) -> bool {
        // Before the commands are taken: what comes later signals again.
        if events.iter().any(|event| event.token() == SIGNAL) {
            heard.clear();
            self.owes_drain = true;
        }
        let commands = self.shared.receive();
        self.owes_drain |= !commands.is_empty();
        self.obey(commands);
        for event in events.iter().filter(|event| event.token() != SIGNAL) {
            let Some(token) = self.by_fd.get(event.token().0).copied().filter(|&it| it != VACANT) else {
                continue;
            };
            self.on_socket(token, event.is_readable() || event.is_read_closed() || event.is_error());
        }
        self.owes_drain |= self.promised.is_some_and(|at| self.hub.clock.now() >= at);
        if self.owes_drain && self.before_drain == 0 {
            self.drain();
        } else if self.is_tick_due() {
            self.next = self.hub.tick(&self.reader, &mut self.effects);
            self.apply_effects();
            // Thousands may have been released together.
            self.before_drain = self.schedule.len();
        }
        self.serve_schedule();
        self.close_overdue();
        self.watch_clients();
        !self.stopping
    }

    /// Do the part of a round that follows a publication, on another thread, while the worker's own sleeps. `None` when
    /// it is awake, or has more than `most` clients.
    pub fn stand_in(&mut self, most: usize) -> Option<Served> {
        let clients = self.connections.len();
        if clients > most || self.due().is_now {
            return None;
        }
        // Newcomers, for which the thread was not woken.
        let commands = self.shared.receive_for_it();
        self.obey(commands);
        self.drain();
        self.serve_schedule();
        let is_more = !self.shared.stood_in() || self.stopping || self.due().is_before(self.wakes);
        Some(Served { clients: self.connections.len(), is_more })
    }

    /// Say that the thread sleeps, if it may. Returns for how long.
    pub fn sleep(&mut self) -> Option<Duration> {
        self.wakes = self.due();
        if self.wakes.is_now {
            return Some(Duration::ZERO);
        }
        let now = self.hub.clock.now();
        let hub = self.wakes.hub.map(|at| at.saturating_sub(now));
        let ending = self.wakes.ending.map(|at| at.saturating_duration_since(Instant::now()));
        // mio rounds timeouts up to whole milliseconds.
        let timeout = [hub, ending].into_iter().flatten().min();
        let until = timeout.filter(|_| !self.hub.clock.is_manual()).map(|timeout| now + timeout);
        if self.shared.sleep(until) { timeout } else { Some(Duration::ZERO) }
    }

    fn due(&self) -> Due {
        let round = Some(self.rounds.next).filter(|_| self.has_clients);
        let next = [self.next.check, round].into_iter().flatten().min().map(round_up);
        let next = [next, self.next.release, self.promised].into_iter().flatten().min();
        Due {
            is_now: self.owes_drain || !self.schedule.is_empty() || self.rounds.is_under_way(),
            hub: next.filter(|_| !self.hub.clock.is_manual()),
            ending: self.ending.peek().map(|Reverse((at, ..))| *at),
        }
    }

    fn is_tick_due(&self) -> bool {
        self.next.soonest().is_some_and(|next| self.hub.clock.now() >= next)
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Adopt { connection, is_polled } => self.adopt(connection, is_polled),
                Command::Resume { key } => {
                    if let Some(token) = self.token_of(key) {
                        self.schedule(token);
                    }
                }
                Command::Abort { group } => self.abort(group),
                Command::Stop => self.stopping = true,
            }
        }
    }

    fn adopt(&mut self, connection: Connection, is_polled: bool) {
        let identity = connection.identity.clone();
        if !is_polled && self.shared.sockets.add(connection.fd()).is_err() {
            self.shared.stream_ended(identity.group);
            self.unregister(&identity, &CloseReason::Client);
            return;
        }
        self.has_clients = true;
        let fd = connection.fd();
        let token = self.connections.insert(connection);
        set(&mut self.by_key, identity.key, token);
        set(&mut self.by_fd, usize::try_from(fd).unwrap_or_default(), token);
        // Events may have been delivered to it before its key was known here.
        self.schedule(token);
    }

    fn token_of(&self, key: usize) -> Option<usize> {
        self.by_key.get(key).copied().filter(|&token| token != VACANT)
    }

    fn schedule(&mut self, token: usize) {
        if let Some(connection) = self.connections.get_mut(token)
            && !std::mem::replace(&mut connection.is_scheduled, true)
        {
            self.schedule.push_back(token);
        }
    }

    fn on_socket(&mut self, token: usize, readable: bool) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if readable && !connection.discard_input() {
            return self.close(token, &CloseReason::Client);
        }
        if connection.is_blocked() || matches!(connection.phase, Phase::Ending(_)) {
            self.schedule(token);
        }
    }

    fn drain(&mut self) {
        self.promise();
        let drained = self.hub.drain(&self.reader, &mut self.effects);
        self.next = drained.next;
        self.owes_drain = drained.more;
        self.apply_effects();
        self.before_drain = self.schedule.len();
        self.published = drained.published.filter(|_| self.before_drain > 0);
    }

    /// Before the log is read: promise to drain again soon where events follow each other closely.
    fn promise(&mut self) {
        let now = self.hub.clock.now();
        // A clock that a test moves keeps no promise.
        if self.reader.bell.events_follow() && !self.hub.clock.is_manual() {
            self.promised = Some(now + SOON);
        } else if self.promised.is_some_and(|at| now >= at) {
            self.promised = None;
        }
        self.reader.bell.promise(self.promised.is_some());
    }

    fn apply_effects(&mut self) {
        let resumed = std::mem::take(&mut self.effects.resume);
        for &key in &resumed {
            if let Some(token) = self.token_of(key) {
                self.schedule(token);
            }
        }
        self.effects.resume = resumed;
        self.effects.resume.clear();
        for (identity, reason) in std::mem::take(&mut self.effects.closed) {
            self.listener.closed(&identity, &reason);
            let Some(token) = self.token_of(identity.key) else { continue };
            // A stream whose write is unfinished gets no proper end. It is not closed here: thousands that stalled
            // together overflow at the same event, and closing them takes longer than a slice.
            if !reason.drains() && self.connections.get(token).is_some_and(Connection::is_blocked) {
                self.close_after(token, Duration::ZERO);
            }
        }
    }
}

/// Set a place that may be beyond the end.
fn set(places: &mut Vec<usize>, at: usize, token: usize) {
    if places.len() <= at {
        places.resize(at + 1, VACANT);
    }
    places[at] = token;
}

/// The next moment of a tick.
fn round_up(at: Duration) -> Duration {
    let ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - TICK_MS);
    Duration::from_millis((ms + 1).next_multiple_of(TICK_MS))
}
