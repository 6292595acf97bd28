//! Redis as a store, and the presence table as its commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Pipeline, Value};

use super::inner::Inner;
use super::link::{Commands, Moved, connect};
use super::log::RedisLog;
use super::options::{Keys, Server};
use super::reply;
use super::scripts::{ALIVE, CLAIM, ENDED, LEASE, PRESENT, RELEASE};
use crate::broker::PresenceChange;
use crate::ids::StreamId;
use crate::stream_broker::store::{
    Answer, Append, AppendError, Ended, Opened, PresenceWrite, Store, StoreError,
};
use crate::stream_broker::{Kept, PRESENCE_TTL};
use crate::topic::Topic;

/// Members of a presence table that are written with one command.
const CHUNK: usize = 1000;

/// A member that is written before all others and never asked for: while it is there, the table is whole.
const WHOLE: &str = "";

/// Redis, as the store of one hub.
pub struct RedisStore(Arc<Inner>);

impl RedisStore {
    pub fn new(server: Server, keys: Keys, kept: Kept, min_replicas: u32) -> Self {
        Self(Arc::new(Inner {
            server,
            keys,
            kept,
            min_replicas,
            commands: Commands::default(),
            appending: (min_replicas > 0).then(Commands::default),
            moved: Moved::default(),
            copies: Mutex::default(),
        }))
    }
}

impl Store for RedisStore {
    type Log = RedisLog;

    const THREAD: &'static str = "sse-hub-redis";

    const DOUBT: &'static str = "its server was started again, or another one took over";

    fn place(&self) -> &str {
        &self.0.server.shown
    }

    fn log_name(&self) -> &str {
        &self.0.keys.events
    }

    fn timeout(&self) -> Duration {
        self.0.server.timeout
    }

    fn connect_timeout(&self) -> Duration {
        self.0.server.connect_timeout
    }

    async fn open(&self, is_redirected: bool) -> Answer<Opened<RedisLog>> {
        let Inner { server, moved, .. } = &*self.0;
        let mut own = connect(server, moved).await?;
        let copy = self.0.look(&mut own, is_redirected).await?;
        let mut copies = self.0.copies.lock();
        let warnings = std::mem::take(&mut copies.warnings);
        let is_doubtful = std::mem::take(&mut copies.is_doubtful);
        let log = RedisLog { store: self.0.clone(), own: Some(own), copy };
        Ok(Opened { log, is_doubtful, warnings })
    }

    fn log(&self) -> RedisLog {
        RedisLog { store: self.0.clone(), own: None, copy: None }
    }

    async fn connect(&self) -> Answer<()> {
        let Inner { server, moved, .. } = &*self.0;
        let appending = self.0.appending();
        let mut connection = appending.get(server, moved).await?;
        if appending.take_new() {
            // Before anything is appended: see `copies`.
            let is_redirected = appending.is_redirected.swap(false, Ordering::Relaxed);
            if let Err(error) = self.0.look(&mut connection, is_redirected).await {
                appending.forget().await;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn disconnect(&self) {
        self.0.commands.forget().await;
        self.0.appending().forget().await;
    }

    async fn append(&self, batch: Vec<Append<'_>>) -> Vec<Result<StreamId, AppendError>> {
        self.0.append(&batch).await
    }

    async fn lease(&self, name: &str, token: &str, ttl: Duration) -> Answer<bool> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let key = keys.lease_of(name);
        let ask = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(token).arg(ttl.as_millis().to_string());
        };
        Ok(commands.eval(server, moved, &LEASE, &ask).await? == Value::Int(1))
    }

    async fn release(&self, name: &str, token: &str) -> Answer<()> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let key = keys.lease_of(name);
        let ask = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(token);
        };
        commands.eval(server, moved, &RELEASE, &ask).await.map(drop)
    }

    async fn holder(&self, name: &str) -> Answer<Option<String>> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let mut ask = Pipeline::new();
        ask.cmd("GET").arg(keys.lease_of(name));
        let found = commands.run_all(server, moved, ask).await?;
        Ok(reply::text(&found).map(Into::into))
    }

    async fn ended(&self, topics: &[Topic]) -> Answer<Vec<(Topic, Ended)>> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let ask = |command: &mut Cmd| {
            command.arg(2).arg(&keys.ended).arg(&keys.endings);
            for topic in topics {
                command.arg(topic.as_str());
            }
        };
        let replied = commands.eval(server, moved, &ENDED, &ask).await?;
        Ok(reply::ended(&replied))
    }

    async fn write_presence(&self, worker: &str, write: PresenceWrite<'_>) -> Answer<bool> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let key = keys.presence_of(worker);
        let mut pipeline = Pipeline::new();
        match write {
            PresenceWrite::Replace(all) => {
                // Written beside the table, then renamed into its place, so that a reader never sees a part.
                let next = format!("{key}:next");
                pipeline.cmd("DEL").arg(&next);
                pipeline.cmd("ZADD").arg(&next).arg(0).arg(WHOLE);
                // It expires, should this process end before the rename.
                pipeline.cmd("PEXPIRE").arg(&next).arg(ttl());
                add(&mut pipeline, &next, all);
                pipeline.cmd("RENAME").arg(next).arg(&key);
            }
            PresenceWrite::Update(changes) => add(&mut pipeline, &key, changes),
        }
        if pipeline.cmd_iter().next().is_some() {
            commands.run_all(server, moved, pipeline).await?;
        }
        let alive = |command: &mut Cmd| {
            command.arg(2).arg(&keys.workers).arg(&key).arg(worker).arg(ttl());
        };
        let is_whole = commands.eval(server, moved, &ALIVE, &alive).await?;
        Ok(is_whole == Value::Int(1))
    }

    async fn remove_presence(&self, worker: &str) -> Answer<()> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let mut gone = Pipeline::new();
        gone.cmd("DEL").arg(keys.presence_of(worker));
        gone.cmd("ZREM").arg(&keys.workers).arg(worker);
        commands.run_all(server, moved, gone).await.map(drop)
    }

    async fn present(&self, topic: &str) -> Answer<Vec<String>> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let ask = |command: &mut Cmd| {
            command.arg(2).arg(&keys.workers).arg(&keys.presence).arg(topic);
        };
        let found = commands.eval(server, moved, &PRESENT, &ask).await?;
        Vec::from_redis_value(found).map_err(|error| StoreError::refused(error.to_string()))
    }

    async fn claim(&self, worker: &str, topic: &str, subscriber: &str, limit: usize) -> Answer<Option<bool>> {
        let Inner { server, keys, commands, moved, .. } = &*self.0;
        let key = keys.presence_of(worker);
        let ask = |command: &mut Cmd| {
            command.arg(3).arg(&keys.workers).arg(&keys.presence).arg(&key);
            command.arg(topic).arg(subscriber).arg(limit);
        };
        match commands.eval(server, moved, &CLAIM, &ask).await? {
            Value::Int(is_there @ 0..=1) => Ok(Some(is_there == 1)),
            _ => Ok(None),
        }
    }
}

/// Add the commands that make these changes to a key, in order: one command for each run of the same kind.
fn add(pipeline: &mut Pipeline, key: &str, list: &[PresenceChange]) {
    let mut at = 0;
    while at < list.len() {
        let is_in = list[at].is_in;
        let mut command = Cmd::new();
        command.arg(if is_in { "ZADD" } else { "ZREM" }).arg(key);
        let mut members = 0;
        while at < list.len() && list[at].is_in == is_in && members < CHUNK {
            for topic in &list[at].topics {
                if is_in {
                    command.arg(0);
                }
                command.arg(format!("{topic}\0{}", list[at].subscriber));
                members += 1;
            }
            at += 1;
        }
        if members > 0 {
            pipeline.add_command(command);
        }
    }
}

fn ttl() -> u64 {
    u64::try_from(PRESENCE_TTL.as_millis()).unwrap_or(u64::MAX)
}
