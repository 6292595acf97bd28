//! The shared state of a store: the address of Redis, its connections, and the copy that is followed.

use parking_lot::Mutex;
use redis::RedisResult;
use tokio::time::timeout;

use super::connection::Connection;
use super::copies::{Copy, Facts};
use super::link::{Commands, Moved};
use super::options::{Keys, Server};
use super::scripts::TAKE_OVER;
use crate::stream_broker::Kept;
use crate::stream_broker::envelope;
use crate::stream_broker::store::{Answer, StoreError};

/// The shared state of a store.
pub struct Inner {
    pub server: Server,
    pub keys: Keys,
    pub kept: Kept,
    /// How many replicas must have an entry before it is acknowledged.
    pub min_replicas: u32,
    pub commands: Commands,
    /// A connection of its own for what waits for replicas: no other command waits behind it.
    pub appending: Option<Commands>,
    pub moved: Moved,
    pub copies: Mutex<Copies>,
}

/// The copies of servers that were followed.
#[derive(Default)]
pub struct Copies {
    /// All of them, the current one last.
    pub known: Vec<String>,
    /// A copy that was followed earlier has returned. No server's copy returns, so a proxy switches between servers,
    /// and copies mean nothing.
    pub is_unsteady: bool,
    /// Entries may be missing, and the log does not say so.
    pub is_doubtful: bool,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
    /// Whether the operator was warned that the stream may be evicted.
    pub eviction_reported: bool,
}

impl Copies {
    /// The copy that was followed before this one, `""` if there was none; `None` when copies mean nothing.
    fn before(&mut self, copy: &str) -> Option<String> {
        let before = self.known.last().cloned().unwrap_or_default();
        self.is_unsteady |= before != copy && self.known.iter().any(|known| known == copy);
        (!self.is_unsteady).then_some(before)
    }

    fn follow(&mut self, copy: &str) {
        self.known.retain(|known| known != copy);
        self.known.push(copy.into());
    }
}

impl Inner {
    /// The connection that appends.
    pub fn appending(&self) -> &Commands {
        self.appending.as_ref().unwrap_or(&self.commands)
    }

    /// Find out which copy answers on a new connection. One that may lack acknowledged entries says so in the log.
    pub async fn look(&self, connection: &mut Connection, is_redirected: bool) -> Answer<Option<Copy>> {
        let facts = self.in_time(Facts::of(connection)).await?;
        self.warn_of_eviction(facts.evicts);
        if let Some(copy) = &facts.copy {
            // The node of the cluster that redirected this process here has lost nothing.
            self.take_over(connection, copy, is_redirected || facts.is_durable).await?;
        }
        Ok(facts.copy)
    }

    /// The reply to a command, within the time that a reply may take.
    pub async fn in_time<T>(&self, asking: impl Future<Output = RedisResult<T>>) -> Answer<T> {
        match timeout(self.server.timeout, asking).await {
            Ok(replied) => replied.map_err(|error| self.moved.judge(&error)),
            Err(_) => Err(StoreError::connection(format!("no reply within {:?}", self.server.timeout))),
        }
    }

    async fn take_over(&self, connection: &mut Connection, copy: &Copy, is_whole: bool) -> Answer<()> {
        let before = self.copies.lock().before(&copy.id);
        let Some(known) = before.filter(|known| *known != copy.id) else { return Ok(()) };
        let mut command = redis::cmd("EVAL");
        command.arg(TAKE_OVER.text()).arg(2).arg(&self.keys.events).arg(&self.keys.copy);
        command.arg(&copy.id).arg(&copy.replicated).arg(&known);
        command.arg(u8::from(self.min_replicas > 0)).arg(u8::from(is_whole));
        for (field, value) in envelope::gap() {
            command.arg(field).arg(&*value);
        }
        let appended = self.in_time(command.query_async::<i64>(&mut **connection)).await;
        let mut copies = self.copies.lock();
        match appended {
            Ok(0) => {}
            Ok(_) => copies.warnings.push(format!(
                "{} is another server than before, or was started again, and may have lost what was acknowledged: \
                 clients are reset",
                self.server.shown
            )),
            Err(error) if error.is_refusal() => {
                copies.is_doubtful |= !known.is_empty() && !is_whole;
            }
            Err(error) => return Err(error),
        }
        copies.follow(&copy.id);
        Ok(())
    }

    /// Warn the operator once of a server that may evict the stream.
    fn warn_of_eviction(&self, policy: Option<String>) {
        let mut copies = self.copies.lock();
        if let Some(policy) = policy.filter(|_| !copies.eviction_reported) {
            copies.eviction_reported = true;
            copies.warnings.push(format!(
                "{} evicts any key when its memory is full (maxmemory-policy {policy}): a hub's stream that is evicted \
                 is lost, and clients are reset; set maxmemory-policy noeviction",
                self.server.shown
            ));
        }
    }
}
