//! The reactor's thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::connection::{Connection, Phase, Written};
use super::descriptors::Owned;
use super::handle::{Command, Shared};
use super::joined::Joined;
use super::{Listener, descriptors};
use crate::entry::Entry;
use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::ids::SubscriberId;
use crate::reader::{Effects, Reader};
use crate::subscriber::Taken;

/// Clients served between two looks at the sockets.
const BATCH: usize = 256;
/// Time between two looks at the sockets.
const SLICE: Duration = Duration::from_millis(1);
/// How long a client has to close after the end of its stream.
const LINGER: Duration = Duration::from_secs(1);
/// Heartbeats and looks at who is stalled that are due within this time of each other cost one wake-up: with
/// thousands of clients there is hardly a millisecond in which none is due.
const TICK_MS: u64 = 20;
const SIGNAL: Token = Token(usize::MAX);
const NOBODY: usize = usize::MAX;

/// The waking end.
pub struct Signal(UnixStream);

/// The thread's end.
pub struct Heard(UnixStream);

/// A pair: what is set at one end is heard at the other. (mio's own waker does not tell its descriptor, which
/// a forked child has to close.)
pub fn signal() -> io::Result<(Signal, Heard)> {
    let (set, heard) = UnixStream::pair()?;
    descriptors::own(set.as_raw_fd());
    descriptors::own(heard.as_raw_fd());
    Ok((Signal(set), Heard(heard)))
}

impl Signal {
    pub fn set(&self) {
        // Full means that it is set.
        let _ = (&self.0).write(&[1]);
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        descriptors::disown(self.0.as_raw_fd());
    }
}

impl Heard {
    fn clear(&mut self) {
        let mut scratch = [0; 64];
        // One that is not filled was emptied.
        while matches!(self.0.read(&mut scratch), Ok(n) if n == scratch.len()) {}
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        descriptors::disown(self.0.as_raw_fd());
    }
}

pub struct Worker {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
    poll: Poll,
    heard: Heard,
    connections: Slab<Connection>,
    /// Connections by their subscriber's place at the reader.
    by_key: Vec<usize>,
    /// Who has something to write.
    line: VecDeque<usize>,
    /// How many of them stood there when the log was looked at last. It is not looked at again before they had
    /// their turn: who waits in line is not late, and publishers that are faster than the line run into
    /// `backlog_bytes`, not into the clients' limits.
    ahead: usize,
    /// The log is to be looked at.
    rung: bool,
    /// Connections whose stream is over, and when they are closed as they are: a client that does not take the
    /// end, or does not close.
    ending: BinaryHeap<Reverse<(Instant, usize, SubscriberId)>>,
    effects: Effects,
    out: Vec<Arc<Entry>>,
    joined: Joined,
    /// When the hub wants to be drained again, on the hub's clock.
    next: Option<Duration>,
    stopping: bool,
}

impl Worker {
    pub fn new(
        hub: Arc<Hub>,
        reader: Arc<Reader>,
        shared: Arc<Shared>,
        mut heard: Heard,
        listener: Box<dyn Listener>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut heard.0, SIGNAL, Interest::READABLE)?;
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
            line: VecDeque::new(),
            ahead: 0,
            rung: false,
            ending: BinaryHeap::new(),
            effects: Effects::default(),
            out: Vec::new(),
            joined: Joined::default(),
            next: None,
            stopping: false,
        })
    }

    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        while !self.stopping {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing but a broken descriptor of our own: without it nobody can be served.
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
                self.rung = true;
                self.obey();
            }
            if self.rung && self.ahead == 0 {
                self.drain();
            } else if self.is_due() {
                self.next = self.hub.tick(&self.reader, &mut self.effects);
                self.take_effect();
            }
            self.serve_line();
            self.close_late();
        }
        self.close_all();
    }

    fn timeout(&self) -> Option<Duration> {
        if self.rung || !self.line.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = self.next.filter(|_| !self.hub.clock.is_manual());
        let hub = next.map(|next| round_up(next).saturating_sub(self.hub.clock.now()));
        let ending = self.ending.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        // mio's timeouts are in whole milliseconds, rounded up.
        [hub, ending].into_iter().flatten().min()
    }

    fn is_due(&self) -> bool {
        self.next.is_some_and(|next| self.hub.clock.now() >= next)
    }

    fn obey(&mut self) {
        let commands = self.shared.commands.lock().as_mut().map(std::mem::take);
        self.carry_out(commands.unwrap_or_default());
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Adopt { socket, identity } => self.adopt(socket, &identity),
                Command::Resume { key } => {
                    if let Some(&token) = self.by_key.get(key).filter(|&&token| token != NOBODY) {
                        self.stand_in_line(token);
                    }
                }
                Command::Abort { server } => {
                    let theirs =
                        |(_, connection): &(usize, &Connection)| connection.identity.server == server;
                    let meant: Vec<usize> =
                        self.connections.iter().filter(theirs).map(|(token, _)| token).collect();
                    for token in meant {
                        self.gone(token, &CloseReason::Shutdown);
                    }
                }
                Command::Stop => self.stopping = true,
            }
        }
    }

    fn adopt(&mut self, socket: Owned, identity: &Arc<Identity>) {
        let key = identity.key;
        let server = identity.server;
        let adopted =
            Connection::new(socket, identity.clone(), self.hub.config.stall_timeout).and_then(|connection| {
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
            });
        let Ok(token) = adopted else {
            self.shared.ended(server);
            self.forget(identity, &CloseReason::Client);
            return;
        };
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, NOBODY);
        }
        self.by_key[key] = token;
        self.stand_in_line(token);
    }

    /// The subscriber is gone; who wants to know is told.
    fn forget(&mut self, identity: &Arc<Identity>, reason: &CloseReason) {
        if self.hub.drop_subscriber(&self.reader, identity, reason.clone()) {
            self.listener.closed(identity, reason);
        }
    }

    fn stand_in_line(&mut self, token: usize) {
        if let Some(connection) = self.connections.get_mut(token)
            && !std::mem::replace(&mut connection.in_line, true)
        {
            self.line.push_back(token);
        }
    }

    fn on_socket(&mut self, token: usize, readable: bool) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if readable && !connection.discard_input() {
            return self.gone(token, &CloseReason::Client);
        }
        if connection.is_blocked() || matches!(connection.phase, Phase::Ending(_)) {
            self.stand_in_line(token);
        }
    }

    fn drain(&mut self) {
        let drained = self.hub.drain(&self.reader, &mut self.effects);
        self.next = drained.next;
        self.rung = drained.more;
        self.take_effect();
        self.ahead = self.line.len();
    }

    fn take_effect(&mut self) {
        let wake = std::mem::take(&mut self.effects.wake);
        for key in &wake {
            if let Some(&token) = self.by_key.get(*key).filter(|&&token| token != NOBODY) {
                self.stand_in_line(token);
            }
        }
        self.effects.wake = wake;
        self.effects.wake.clear();
        for (identity, reason) in std::mem::take(&mut self.effects.closed) {
            self.listener.closed(&identity, &reason);
            let token = self.by_key.get(identity.key).copied().unwrap_or(NOBODY);
            if !self.connections.get(token).is_some_and(Connection::is_blocked) {
                continue;
            }
            // One whose write is unfinished gets no proper end. It is not closed here: thousands that stalled
            // together overflow at the same event, and closing them takes longer than a slice.
            let cut = matches!(reason, CloseReason::Overflow | CloseReason::Stalled);
            self.close_after(token, if cut { Duration::ZERO } else { self.hub.config.stall_timeout });
        }
    }

    fn serve_line(&mut self) {
        let start = Instant::now();
        for served in 1..=BATCH {
            let Some(token) = self.line.pop_front() else { return self.joined.clear() };
            self.ahead = self.ahead.saturating_sub(1);
            if let Some(connection) = self.connections.get_mut(token) {
                connection.in_line = false;
                self.serve(token);
            }
            // A look at the clock costs as much as 1/50 of a write.
            if served % 16 == 0 && start.elapsed() >= SLICE {
                return;
            }
        }
    }

    fn serve(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if matches!(connection.phase, Phase::Lingering) {
            return;
        }
        let unwritten = connection.unwritten();
        match connection.flush(&mut self.joined) {
            Ok(Written::All) => {}
            Ok(Written::Blocked) => {
                if connection.unwritten() != unwritten {
                    self.reader.progressed(&connection.identity, self.hub.clock.now());
                }
                if connection.identity.closed.get().is_some() {
                    self.close_after(token, self.hub.config.stall_timeout);
                }
                return;
            }
            Err(_) => return self.gone(token, &CloseReason::Client),
        }
        if matches!(connection.phase, Phase::Ending(_)) {
            return self.ended(token);
        }
        // More than the first look gives is a piece of a replay, or the end. What the second finds beyond that
        // waits for the next turn.
        for _ in 0..2 {
            self.out.clear();
            let found = self.hub.take_last(&self.reader, &connection.identity, &mut self.out);
            match found {
                Taken::Nothing => return,
                Taken::Some | Taken::Last => match (connection.write(&mut self.out, &mut self.joined), found)
                {
                    (Ok(Written::All), Taken::Last) => return,
                    (Ok(Written::All), _) => {}
                    (Ok(Written::Blocked), Taken::Last) => {
                        return self.reader.blocked(&connection.identity, self.hub.clock.now());
                    }
                    (Ok(Written::Blocked), _) => {
                        // Whether it ends was looked at when nothing was unwritten yet.
                        if connection.identity.closed.get().is_some() {
                            self.close_after(token, self.hub.config.stall_timeout);
                        }
                        return;
                    }
                    (Err(_), _) => return self.gone(token, &CloseReason::Client),
                },
                Taken::End => {
                    connection.phase = Phase::Ending(0);
                    break;
                }
            }
        }
        self.stand_in_line(token);
    }

    /// The end of the body is written.
    fn ended(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let identity = connection.identity.clone();
        let closed = connection.linger();
        self.by_key[identity.key] = NOBODY;
        self.shared.ended(identity.server);
        self.forget(&identity, &CloseReason::Closed);
        match closed {
            Ok(()) => self.close_after(token, LINGER),
            Err(_) => self.remove(token),
        }
    }

    /// Close the connections whose time after the end is over; what takes too long waits for the next turn.
    fn close_late(&mut self) {
        let now = Instant::now();
        for closed in 1.. {
            match self.ending.peek() {
                Some(&Reverse((at, token, id))) if at <= now => self.close_if_over(token, id),
                _ => return,
            }
            if closed % 16 == 0 && now.elapsed() >= SLICE {
                return;
            }
        }
    }

    fn close_if_over(&mut self, token: usize, id: SubscriberId) {
        self.ending.pop();
        // The place may have been given to another client since.
        let is_it = |found: &Connection| found.identity.id == id && found.identity.closed.get().is_some();
        if self.connections.get(token).is_some_and(is_it) {
            self.gone(token, &CloseReason::Stalled);
        }
    }

    /// A stream is over: its client has this long to take what is left.
    fn close_after(&mut self, token: usize, patience: Duration) {
        if let Some(connection) = self.connections.get(token) {
            self.ending.push(Reverse((Instant::now() + patience, token, connection.identity.id)));
        }
    }

    /// A connection is over.
    fn gone(&mut self, token: usize, reason: &CloseReason) {
        let Some(connection) = self.connections.get(token) else { return };
        let identity = connection.identity.clone();
        if !matches!(connection.phase, Phase::Lingering) {
            self.by_key[identity.key] = NOBODY;
            self.shared.ended(identity.server);
            self.forget(&identity, reason);
        }
        self.remove(token);
    }

    fn remove(&mut self, token: usize) {
        if let Some(connection) = self.connections.try_remove(token) {
            let _ = self.poll.registry().deregister(&mut SourceFd(&connection.fd()));
        }
    }

    fn close_all(&mut self) {
        // Commands that were given meanwhile hold descriptors, too.
        let last = self.shared.commands.lock().take();
        self.carry_out(last.unwrap_or_default());
        let all: Vec<usize> = self.connections.iter().map(|(token, _)| token).collect();
        for token in all {
            self.gone(token, &CloseReason::HubClosed);
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
        // Also when its thread could not be started, or panicked: a forked child would close whatever has the
        // number by then.
        descriptors::disown(self.poll.as_raw_fd());
    }
}
