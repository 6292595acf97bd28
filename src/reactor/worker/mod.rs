//! The reactor's thread: one loop over sockets, commands, the log and timers.

mod close;
mod serve;
mod watch;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::Listener;
use super::coalesce::Coalesced;
use super::connection::{Connection, Phase};
use super::owned::Owned;
use super::rounds::Rounds;
use super::shared::{Command, Shared};
use super::signal::Heard;
use crate::descriptors;
use crate::entry::Entry;
use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::ids::SubscriberId;
use crate::reader::{Effects, Next, Reader};

/// The longest time between two polls.
const SLICE: Duration = Duration::from_millis(1);
/// Heartbeats and stall checks that are due within this time of each other cost one wake-up: with thousands of
/// clients there is hardly a millisecond in which none is due.
const TICK_MS: u64 = 20;
const SIGNAL: Token = Token(usize::MAX);
const VACANT: usize = usize::MAX;

pub struct Worker {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
    poll: Poll,
    heard: Heard,
    connections: Slab<Connection>,
    /// Connections by their subscriber's key at the reader.
    by_key: Vec<usize>,
    /// Connections to serve, in this order.
    schedule: VecDeque<usize>,
    /// How many of them the last drain left. The log is not drained again before these were served: a client that
    /// waits for its turn is not late, and publishers that are faster than the schedule run into `backlog_bytes`,
    /// not into the clients' limits.
    before_drain: usize,
    /// When the oldest event of the last drain was published, until its connections were served.
    published: Option<Duration>,
    owes_drain: bool,
    /// When to close, or to check, connections whose stream is over.
    ending: BinaryHeap<Reverse<(Instant, usize, SubscriberId)>>,
    effects: Effects,
    out: Vec<Arc<Entry>>,
    coalesced: Coalesced,
    /// When the hub needs its next tick, on the hub's clock.
    next: Next,
    rounds: Rounds,
    stopping: bool,
}

impl Worker {
    pub fn new(
        hub: Arc<Hub>,
        reader: Arc<Reader>,
        shared: Arc<Shared>,
        heard: Heard,
        listener: Box<dyn Listener>,
    ) -> io::Result<Self> {
        let rounds = Rounds::new(hub.config.stall_timeout, hub.clock.now());
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&heard.descriptor()), SIGNAL, Interest::READABLE)?;
        descriptors::own(poll.as_raw_fd());
        Ok(Self {
            hub,
            reader,
            shared,
            listener,
            poll,
            heard,
            connections: Slab::new(),
            by_key: Vec::new(),
            schedule: VecDeque::new(),
            before_drain: 0,
            published: None,
            owes_drain: false,
            ending: BinaryHeap::new(),
            effects: Effects::default(),
            out: Vec::new(),
            coalesced: Coalesced::default(),
            next: Next::default(),
            rounds,
            stopping: false,
        })
    }

    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        while !self.stopping {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Only a broken descriptor of our own fails otherwise: without it no client can be served.
                Err(_) => break,
            }
            let mut signalled = false;
            for event in &events {
                match event.token() {
                    SIGNAL => signalled = true,
                    Token(token) => {
                        self.on_socket(
                            token,
                            event.is_readable() || event.is_read_closed() || event.is_error(),
                        );
                    }
                }
            }
            if signalled {
                self.heard.clear();
                self.owes_drain = true;
                let commands = self.shared.receive();
                self.obey(commands);
            }
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
        }
        self.close_all();
    }

    fn timeout(&self) -> Option<Duration> {
        if self.owes_drain || !self.schedule.is_empty() || self.rounds.is_under_way() {
            return Some(Duration::ZERO);
        }
        let round = Some(self.rounds.next).filter(|_| !self.connections.is_empty());
        let next = [self.next.check, round].into_iter().flatten().min().map(round_up);
        let next = [next, self.next.release].into_iter().flatten().min();
        let next = next.filter(|_| !self.hub.clock.is_manual());
        let hub = next.map(|next| next.saturating_sub(self.hub.clock.now()));
        let ending = self.ending.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        // mio rounds timeouts up to whole milliseconds.
        [hub, ending].into_iter().flatten().min()
    }

    fn is_tick_due(&self) -> bool {
        self.next.soonest().is_some_and(|next| self.hub.clock.now() >= next)
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Adopt { socket, identity } => self.adopt(socket, &identity),
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

    fn adopt(&mut self, socket: Owned, identity: &Arc<Identity>) {
        let key = identity.key;
        let group = identity.group;
        let adopted = Connection::new(socket, identity.clone(), self.hub.config.stall_timeout).and_then(
            |mut connection| {
                if self.reader.may_drop(identity) {
                    connection.keep_fresh();
                }
                let slot = self.connections.vacant_entry();
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(
                    &mut SourceFd(&connection.fd()),
                    Token(slot.key()),
                    interest,
                )?;
                let token = slot.key();
                slot.insert(connection);
                Ok(token)
            },
        );
        let Ok(token) = adopted else {
            self.shared.stream_ended(group);
            self.unregister(identity, &CloseReason::Client);
            return;
        };
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, VACANT);
        }
        self.by_key[key] = token;
        self.reader.leave_stalls_to_driver(identity);
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
        let drained = self.hub.drain(&self.reader, &mut self.effects);
        self.next = drained.next;
        self.owes_drain = drained.more;
        self.apply_effects();
        self.before_drain = self.schedule.len();
        self.published = drained.published.filter(|_| self.before_drain > 0);
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

/// The next moment of a tick.
fn round_up(at: Duration) -> Duration {
    let ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - TICK_MS);
    Duration::from_millis((ms + 1).next_multiple_of(TICK_MS))
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Also when its thread could not be started, or panicked: a forked child would close whatever has this
        // number by then.
        descriptors::disown(self.poll.as_raw_fd());
    }
}
