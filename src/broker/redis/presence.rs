//! Who is there, at all workers: each writes its own subscribers to Redis, where they expire with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value};

use super::Shared;
use super::options::PRESENCE_TTL;
use super::scripts::{ALIVE, PRESENT};
use crate::broker::PresenceChange;
use crate::broker::outcome::Failure;

/// How often changes are written.
const EVERY: Duration = Duration::from_millis(200);
/// How long nothing is written after it failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Members written with one command.
const CHUNK: usize = 1000;
/// Changes beyond which all is written anew when the connection is back.
const MOST_CHANGES: usize = 100_000;

/// Changes that are not written yet.
#[derive(Default)]
pub struct Changes {
    list: Vec<PresenceChange>,
    /// What Redis has may be anything: all is to be written anew.
    stale: bool,
    /// Anybody was ever there.
    used: bool,
}

/// Write changes, and that this worker is there, until the task is dropped.
pub async fn run(shared: Arc<Shared>) {
    let mut alive: Option<Instant> = None;
    let mut failed: Option<Instant> = None;
    let mut stopping = shared.stopping.subscribe();
    while !*stopping.borrow_and_update() {
        let _ = tokio::time::timeout(EVERY, stopping.changed()).await;
        if !shared.presence.lock().used {
            continue;
        }
        if !shared.connected.load(Ordering::Acquire) {
            shared.presence.lock().stale = true;
            alive = None;
            continue;
        }
        // All is written anew after a failure, which is much: not again and again.
        if failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE) {
            continue;
        }
        let written = shared.write_presence().await;
        failed = written.is_err().then(Instant::now);
        let due = alive.is_none_or(|at| at.elapsed() >= PRESENCE_TTL / 3);
        if written.is_ok() && due && shared.stay_alive().await.is_ok() {
            alive = Some(Instant::now());
        }
    }
    if shared.presence.lock().used {
        let mut gone = Pipeline::new();
        gone.cmd("DEL").arg(shared.presence_key());
        gone.cmd("ZREM").arg(&shared.keys.workers).arg(&*shared.worker);
        let _ = shared.commands.run_all(&shared.server, gone).await;
    }
}

fn member(topic: &str, subscriber: &str) -> String {
    format!("{topic}\0{subscriber}")
}

impl Shared {
    /// Note a change; it is written soon.
    pub fn note_presence(&self, change: PresenceChange) {
        let mut changes = self.presence.lock();
        changes.used = true;
        if changes.stale {
            return;
        }
        if changes.list.len() >= MOST_CHANGES {
            changes.list = Vec::new();
            changes.stale = true;
            return;
        }
        changes.list.push(change);
    }

    fn presence_key(&self) -> String {
        format!("{}{}", self.keys.presence, self.worker)
    }

    async fn write_presence(&self) -> Result<(), String> {
        let _writing = self.writing_presence.lock().await;
        let (list, stale) = {
            let mut changes = self.presence.lock();
            (std::mem::take(&mut changes.list), std::mem::take(&mut changes.stale))
        };
        let key = self.presence_key();
        let mut pipeline = Pipeline::new();
        let list = if stale {
            pipeline.cmd("DEL").arg(&key);
            self.hub.upgrade().map(|hub| hub.presence()).unwrap_or_default()
        } else {
            list
        };
        // Runs of the same kind in one command; their order is kept.
        let mut at = 0;
        while at < list.len() {
            let is_in = list[at].is_in;
            let mut command = Cmd::new();
            command.arg(if is_in { "ZADD" } else { "ZREM" }).arg(&key);
            let mut members = 0;
            while at < list.len() && list[at].is_in == is_in && members < CHUNK {
                for topic in &list[at].topics {
                    if is_in {
                        command.arg(0);
                    }
                    command.arg(member(topic, &list[at].subscriber));
                    members += 1;
                }
                at += 1;
            }
            if members > 0 {
                pipeline.add_command(command);
            }
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        // A worker's first subscribers must not outlive it, should it die before it says that it is there.
        pipeline.cmd("PEXPIRE").arg(&key).arg(ttl());
        let written = self.commands.run_all(&self.server, pipeline).await.map_err(|why| why.text);
        if written.is_err() || (stale && self.stay_alive().await.is_err()) {
            self.presence.lock().stale = true;
        }
        written
    }

    async fn stay_alive(&self) -> Result<(), String> {
        let mut command = redis::cmd("EVAL");
        command.arg(ALIVE).arg(2).arg(&self.keys.workers).arg(self.presence_key());
        command.arg(&*self.worker).arg(ttl());
        self.commands.run::<Value>(&self.server, &command).await.map(drop).map_err(|why| why.text)
    }

    /// The ids of the subscribers of a topic at all workers, sorted; none: of the hub.
    pub async fn present(&self, topic: Option<String>) -> Result<Vec<String>, Failure> {
        let refuse = |reason: String| {
            Failure::Refused(format!("{} was asked who is there: {reason}", self.server.shown).into())
        };
        // Who asks finds whoever is here already.
        if self.presence.lock().used {
            self.write_presence().await.map_err(refuse)?;
            self.stay_alive().await.map_err(refuse)?;
        }
        let mut command = redis::cmd("EVAL");
        command.arg(PRESENT).arg(2).arg(&self.keys.workers).arg(&self.keys.presence);
        command.arg(topic.unwrap_or_default());
        let mut ids: Vec<String> =
            self.commands.run(&self.server, &command).await.map_err(|why| refuse(why.text))?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

fn ttl() -> u64 {
    u64::try_from(PRESENCE_TTL.as_millis()).unwrap_or(u64::MAX)
}
