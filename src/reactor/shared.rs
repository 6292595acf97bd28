//! What a reactor's handle and its thread share: commands for the thread, and how many streams are open.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::connection::Connection;
use super::signal::Signal;
use super::sockets::Registered;
use crate::ids::GroupId;
use crate::sync::Mutex;

/// How many newcomers may wait for the thread to wake of its own accord. Their changes wait in the log.
const NEWCOMERS: usize = 64;

pub enum Command {
    /// `is_polled`: the thread's poll has the socket already.
    Adopt {
        connection: Connection,
        is_polled: bool,
    },
    /// Serve a subscriber that was closed from outside.
    Resume {
        key: usize,
    },
    /// Close the connections of a group at once.
    Abort {
        group: GroupId,
    },
    Stop,
}

/// A time between two drains of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn(u64);

/// What the thread does.
enum Thread {
    /// It takes the commands before it sleeps.
    Awake,
    /// It waits for its sockets, until this time on the hub's clock.
    Asleep { until: Option<Duration> },
    /// It was signalled.
    Woken,
}

struct Inbox {
    commands: Vec<Command>,
    thread: Thread,
    turn: Turn,
}

pub struct Shared {
    /// `None` once the thread takes no more.
    inbox: Mutex<Option<Inbox>>,
    /// Connections whose stream has not ended, by group.
    open: Mutex<FxHashMap<GroupId, usize>>,
    signal: Signal,
    pub sockets: Registered,
}

impl Inbox {
    /// Whether the thread must be signalled to take what was added.
    fn wakes(&mut self) -> bool {
        let is_asleep = matches!(self.thread, Thread::Asleep { .. });
        if is_asleep {
            self.thread = Thread::Woken;
        }
        is_asleep
    }

    /// Whether the thread takes what was added early enough of its own accord.
    fn comes(&self, since: Turn, by: Duration) -> bool {
        match self.thread {
            Thread::Asleep { until: Some(until) } => {
                until <= by && self.turn == since && self.commands.len() <= NEWCOMERS
            }
            Thread::Asleep { until: None } => false,
            Thread::Awake | Thread::Woken => true,
        }
    }
}

impl Shared {
    pub fn new(signal: Signal, sockets: Registered) -> Self {
        let inbox = Inbox { commands: Vec::new(), thread: Thread::Awake, turn: Turn(0) };
        Self { inbox: Mutex::new(Some(inbox)), open: Mutex::default(), signal, sockets }
    }

    pub fn send(&self, command: Command) {
        // A socket that comes too late is closed here, after the lock is released.
        let (wakes, _too_late) = match &mut *self.inbox.lock() {
            Some(inbox) => {
                inbox.commands.push(command);
                (inbox.wakes(), None)
            }
            None => (false, Some(command)),
        };
        if wakes {
            self.signal.set();
        }
    }

    /// The present turn, or the one before the thread sleeps.
    pub fn turn(&self) -> Turn {
        self.inbox.lock().as_ref().map_or(Turn(0), |inbox| inbox.turn)
    }

    /// Give a connection to the thread. If it was served, `served` is the turn in which it was subscribed, and the time
    /// on the hub's clock at which the thread must know it. Then a thread that sleeps is not woken for it alone: it
    /// takes it when an event, or the client, or an earlier time wakes it.
    pub fn adopt(&self, connection: Connection, served: Option<(Turn, Duration)>) {
        let (wakes, _too_late) = match &mut *self.inbox.lock() {
            Some(inbox) => {
                // With the lock held: the thread knows the socket before it acts on an event of it.
                let is_polled = self.sockets.add(connection.fd()).is_ok();
                inbox.commands.push(Command::Adopt { connection, is_polled });
                let comes = is_polled && served.is_some_and(|(since, by)| inbox.comes(since, by));
                (!comes && inbox.wakes(), None)
            }
            None => (false, Some(connection)),
        };
        if wakes {
            self.signal.set();
        }
    }

    pub fn wake(&self) {
        self.signal.set();
    }

    /// The thread is about to sleep until this time on the hub's clock. False when it must not: commands wait.
    pub fn sleep(&self, until: Option<Duration>) -> bool {
        let mut inbox = self.inbox.lock();
        let Some(inbox) = inbox.as_mut().filter(|inbox| inbox.commands.is_empty()) else { return false };
        inbox.turn.0 += 1;
        inbox.thread = Thread::Asleep { until };
        true
    }

    /// The thread is awake, and takes the commands.
    pub fn receive(&self) -> Vec<Command> {
        let mut inbox = self.inbox.lock();
        let Some(inbox) = inbox.as_mut() else { return Vec::new() };
        inbox.thread = Thread::Awake;
        std::mem::take(&mut inbox.commands)
    }

    /// Another thread takes the commands, while this one sleeps.
    pub fn receive_for_it(&self) -> Vec<Command> {
        self.inbox.lock().as_mut().map(|inbox| std::mem::take(&mut inbox.commands)).unwrap_or_default()
    }

    /// That one has drained the log: a newcomer that was subscribed before may have got events, and is to be given to
    /// the thread like one that the thread itself passed. False when commands have come meanwhile.
    pub fn stood_in(&self) -> bool {
        let mut inbox = self.inbox.lock();
        let Some(inbox) = inbox.as_mut() else { return true };
        inbox.turn.0 += 1;
        inbox.commands.is_empty()
    }

    /// Refuse commands from now on. Returns the last ones.
    pub fn refuse(&self) -> Vec<Command> {
        self.inbox.lock().take().map(|inbox| inbox.commands).unwrap_or_default()
    }

    pub fn stream_opened(&self, group: GroupId) {
        *self.open.lock().entry(group).or_default() += 1;
    }

    pub fn stream_ended(&self, group: GroupId) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                open.remove(&group);
            }
        }
    }

    pub fn open(&self, group: GroupId) -> usize {
        self.open.lock().get(&group).copied().unwrap_or(0)
    }

    pub fn open_in_all(&self) -> usize {
        self.open.lock().values().sum()
    }
}
