//! Who is there, at all workers: each writes its own subscribers to Redis, where they expire with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value};

use super::Shared;
use super::options::PRESENCE_TTL;
use super::scripts::{ALIVE, PRESENT};
use crate::broker::PresenceChange;
use crate::outcome::Failure;

/// How often changes are written.
const EVERY: Duration = Duration::from_millis(200);
/// How long nothing is written after it failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Members written with one command.
const CHUNK: usize = 1000;
/// Changes beyond which all is written anew when the connection is back.
const MOST_CHANGES: usize = 100_000;

/// A member that is there as long as all that was written is, before everything else; nobody asks for it.
const WHOLE: &str = "";

/// Changes that are not written yet.
pub struct Changes {
    list: Vec<PresenceChange>,
    /// What Redis has may be anything: all is to be written anew.
    stale: bool,
    /// What Redis has may be gone: that is to be asked soon.
    doubted: bool,
    /// Anybody was ever there.
    used: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self { list: Vec::new(), stale: true, doubted: false, used: false }
    }
}

impl Changes {
    /// The connection ended: a server that has lost the newest may be the next.
    pub fn outdate(&mut self) {
        self.list = Vec::new();
        self.stale = true;
    }

    /// Something else of the hub's was found missing.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    fn wait(&self) -> bool {
        self.stale || self.doubted || !self.list.is_empty()
    }
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
            continue;
        }
        // All is written anew after a failure, which is much: not again and again.
        if failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE) {
            continue;
        }
        let due = alive.is_none_or(|at| at.elapsed() >= PRESENCE_TTL / 3);
        if due || shared.presence.lock().wait() {
            let now = Some(Instant::now());
            match shared.write_presence().await {
                Ok(()) => alive = now,
                Err(_) => failed = now,
            }
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

/// The commands that make these changes to a key: runs of the same kind in one, and their order is kept.
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
                command.arg(member(topic, &list[at].subscriber));
                members += 1;
            }
            at += 1;
        }
        if members > 0 {
            pipeline.add_command(command);
        }
    }
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
            changes.outdate();
            return;
        }
        changes.list.push(change);
    }

    fn presence_key(&self) -> String {
        format!("{}{}", self.keys.presence, self.worker)
    }

    /// Write what has changed, and that this worker is there. What Redis had of it may be gone: all is written then.
    async fn write_presence(&self) -> Result<(), String> {
        let _writing = self.writing_presence.lock().await;
        if self.write_changes().await? || self.write_changes().await? {
            return Ok(());
        }
        Err("who is there at this process is deleted as soon as it is written".into())
    }

    /// Whether what Redis has is whole now; if not, all is written the next time.
    async fn write_changes(&self) -> Result<bool, String> {
        let Changes { list, stale, .. } = {
            let mut changes = self.presence.lock();
            let used = changes.used;
            std::mem::replace(&mut *changes, Changes { list: Vec::new(), stale: false, doubted: false, used })
        };
        let key = self.presence_key();
        let mut pipeline = Pipeline::new();
        if stale {
            let all = self.hub.upgrade().map(|hub| hub.presence()).unwrap_or_default();
            // Beside what is there, and then in its place: who asks meanwhile sees no less.
            let next = format!("{key}:next");
            pipeline.cmd("DEL").arg(&next);
            pipeline.cmd("ZADD").arg(&next).arg(0).arg(WHOLE);
            // Should this process end meanwhile, none of it stays for ever.
            pipeline.cmd("PEXPIRE").arg(&next).arg(ttl());
            add(&mut pipeline, &next, &all);
            pipeline.cmd("RENAME").arg(next).arg(&key);
        } else {
            add(&mut pipeline, &key, &list);
        }
        pipeline.cmd("EVAL").arg(ALIVE).arg(2).arg(&self.keys.workers).arg(key).arg(&*self.worker).arg(ttl());
        let written = self.commands.run_all(&self.server, pipeline).await.map_err(|why| why.text);
        let is_whole = written.map(|alive| alive == Value::Int(1));
        if is_whole != Ok(true) {
            self.presence.lock().outdate();
        }
        is_whole
    }

    /// The ids of the subscribers of a topic at all workers, sorted; none: of the hub.
    pub async fn present(&self, topic: Option<String>) -> Result<Vec<String>, Failure> {
        let refuse = |reason: String| {
            Failure::Refused(format!("{} was asked who is there: {reason}", self.server.shown).into())
        };
        // Who asks finds whoever is here already.
        if self.presence.lock().used {
            self.write_presence().await.map_err(refuse)?;
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
