//! What a reactor's handle and its thread share: commands for the thread, and how many streams are open.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::owned::Owned;
use super::signal::Signal;
use crate::identity::Identity;
use crate::ids::GroupId;
use crate::sync::Mutex;

pub enum Command {
    Adopt {
        socket: Owned,
        identity: Arc<Identity>,
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

pub struct Shared {
    /// `None` once the thread takes no more.
    commands: Mutex<Option<Vec<Command>>>,
    /// Connections whose stream has not ended, by group.
    open: Mutex<FxHashMap<GroupId, usize>>,
    signal: Signal,
}

impl Shared {
    pub fn new(signal: Signal) -> Self {
        Self { commands: Mutex::new(Some(Vec::new())), open: Mutex::default(), signal }
    }

    pub fn send(&self, command: Command) {
        // A socket that comes too late is closed here, after the lock is released.
        let (is_first, _too_late) = match &mut *self.commands.lock() {
            Some(commands) => {
                commands.push(command);
                (commands.len() == 1, None)
            }
            None => (false, Some(command)),
        };
        // The thread clears the signal before it takes the commands, so whoever sent the first of them has woken it,
        // or is about to.
        if is_first {
            self.signal.set();
        }
    }

    pub fn wake(&self) {
        self.signal.set();
    }

    pub fn receive(&self) -> Vec<Command> {
        self.commands.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Refuse commands from now on. Returns the last ones.
    pub fn refuse(&self) -> Vec<Command> {
        self.commands.lock().take().unwrap_or_default()
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
