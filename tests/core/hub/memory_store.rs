//! A store in memory, with the faults that stores have: the second one beside Redis.
//!
//! Longer than other files, because a store implements every method of the contract, and each of its faults.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use sse_hub::broker::PresenceChange;
use sse_hub::broker::letter::{Arrived, Fence};
use sse_hub::ids::{BEGINNINGS, StreamId};
use sse_hub::stream_broker::envelope::{self, Fields};
use sse_hub::stream_broker::store::{
    Answer, Append, AppendError, Ended, Ends, Log, Opened, PresenceWrite, Store, StoreError,
};
use sse_hub::topic::Topic;
use tokio::sync::Notify;

const TIMEOUT: Duration = Duration::from_millis(500);
/// How often a read that waits looks for a fault.
const LOOK: Duration = Duration::from_millis(20);

struct Kept {
    id: StreamId,
    before: StreamId,
    fields: Fields<'static>,
}

impl Kept {
    fn arrived(&self) -> Arrived {
        let before = self.before.to_string();
        let get = |name: &str| match name {
            "p" => Some(before.as_bytes()),
            _ => self.fields.iter().find(|(key, _)| *key == name).map(|(_, value)| &**value),
        };
        envelope::read(self.id, &get)
    }
}

/// The log, and the faults of the store.
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub struct Memory {
    entries: Vec<Kept>,
    pub last: StreamId,
    ms: u64,
    /// Part of all ids: how often the log lost its end or was emptied, so that none is given twice.
    life: u64,
    /// Which connections are of use.
    generation: u64,
    pub is_down: bool,
    /// The next batch is appended, and its reply is lost.
    pub loses_reply: bool,
    /// Reads give their entries in the wrong order.
    pub is_disordered: bool,
    /// How long an answer takes.
    pub delay: Duration,
    /// Followers get no entries.
    pub is_held: bool,
    /// A copy took over that may lack acknowledged entries.
    is_doubtful: bool,
    /// Nobody learns which topics have ended.
    pub is_silent_on_ends: bool,
    /// A gap cannot be appended.
    pub refuses_gaps: bool,
    workers: Vec<(String, Vec<PresenceChange>)>,
    ended: HashMap<Arc<str>, (Instant, StreamId, Arc<str>)>,
    leases: HashMap<String, (String, Instant)>,
    /// How often somebody asked for entries without waiting for them.
    pub asked_for_entries: usize,
    /// How often somebody asked who holds a lease.
    pub asked_for_holder: usize,
    /// The topics that have ever ended.
    pub ever_ended: HashSet<Arc<str>>,
    /// How often somebody asked which topics have ended.
    pub asked_for_ends: usize,
}

/// A store in memory; its clones are the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<(Mutex<Memory>, Notify)>);

impl Default for MemoryStore {
    fn default() -> Self {
        let memory = Memory {
            entries: Vec::new(),
            last: StreamId { ms: 1, seq: BEGINNINGS },
            ms: 1,
            life: 0,
            generation: 0,
            is_down: false,
            loses_reply: false,
            is_disordered: false,
            delay: Duration::ZERO,
            is_held: false,
            is_doubtful: false,
            is_silent_on_ends: false,
            refuses_gaps: false,
            workers: Vec::new(),
            ended: HashMap::new(),
            leases: HashMap::new(),
            asked_for_entries: 0,
            asked_for_holder: 0,
            ever_ended: HashSet::new(),
            asked_for_ends: 0,
        };
        Self(Arc::new((Mutex::new(memory), Notify::new())))
    }
}

impl Memory {
    fn append(&mut self, fields: Fields<'_>) -> StreamId {
        let fields = fields.into_iter().map(|(name, value)| (name, value.into_owned().into())).collect();
        self.ms += 1;
        let id = StreamId { ms: self.ms, seq: self.life };
        self.entries.push(Kept { id, before: self.last, fields });
        self.last = id;
        id
    }

    pub fn present(&self, topic: &str) -> Vec<String> {
        let mut present: Vec<String> = Vec::new();
        for change in self.workers.iter().flat_map(|(_, list)| list) {
            if change.topics.iter().any(|name| **name == *topic) {
                present.retain(|id| **id != *change.subscriber);
                if change.is_in {
                    present.push(change.subscriber.to_string());
                }
            }
        }
        present
    }

    fn holder(&self, lease: &str) -> Option<&str> {
        self.leases.get(lease).filter(|(_, until)| Instant::now() < *until).map(|(token, _)| &**token)
    }

    /// Whether a topic has ended, and its name is not free.
    pub fn has_ended(&self, topic: &str) -> bool {
        self.ended.get(topic).is_some_and(|(free, ..)| Instant::now() < *free)
    }

    fn append_checked(&mut self, entry: Append<'_>) -> Result<StreamId, AppendError> {
        if let Some(topic) = entry.open.iter().find(|topic| self.has_ended(topic.as_str())) {
            return Err(AppendError::Ended(topic.as_str().into()));
        }
        let is_open = match &entry.fence {
            None => true,
            Some(Fence::Held { lease, token }) => self.holder(lease) == Some(token),
            Some(Fence::Free { lease }) => self.holder(lease).is_none(),
        };
        if !is_open {
            return Err(AppendError::Fenced);
        }
        let id = self.append(envelope::fields(entry.letter));
        if let Some(Ends { keep, note }) = entry.ends {
            self.ever_ended.insert(entry.open[0].as_str().into());
            self.ended.insert(entry.open[0].as_str().into(), (Instant::now() + keep, id, note));
        }
        if let (true, Some(Fence::Held { lease, .. })) = (entry.frees, &entry.fence) {
            self.leases.remove(&**lease);
        }
        Ok(id)
    }

    /// A lease runs out, and another token takes it.
    pub fn pass_lease(&mut self, lease: &str, token: &str) {
        let until = Instant::now() + Duration::from_secs(5);
        self.leases.insert(lease.into(), (token.into(), until));
    }

    /// Leases run out.
    pub fn expire_leases(&mut self) {
        self.leases.clear();
    }

    fn take_over(&mut self) {
        if self.is_doubtful && !self.refuses_gaps {
            self.is_doubtful = false;
            self.append(envelope::gap());
        }
    }

    fn after(&self, id: StreamId, count: usize) -> Vec<Arrived> {
        let mut page: Vec<_> =
            self.entries.iter().filter(|entry| entry.id > id).take(count).map(Kept::arrived).collect();
        if self.is_disordered && page.len() > 1 {
            page.reverse();
        }
        page
    }

    /// Connections end.
    pub fn cut(&mut self) {
        self.generation += 1;
    }

    pub fn trim(&mut self, keep: usize) {
        let gone = self.entries.len().saturating_sub(keep);
        self.entries.drain(..gone);
    }

    /// Delete one entry in the middle.
    pub fn delete(&mut self, from_end: usize) {
        if self.entries.len() > from_end {
            self.entries.remove(self.entries.len() - 1 - from_end);
        }
    }

    /// Delete all; the log starts over.
    pub fn empty(&mut self) {
        self.entries.clear();
        self.ended.clear();
        self.ms += 1;
        self.life += 1;
        self.last = StreamId { ms: self.ms, seq: BEGINNINGS + self.life };
    }

    /// Lose the newest entries, with every connection, as a failover does. Without a word, or so that the store says
    /// so when it is opened again. Gives how many were lost.
    pub fn lose_tail(&mut self, count: usize, is_told: bool) -> usize {
        let kept = self.entries.len().saturating_sub(count);
        let gone = self.entries.split_off(kept);
        if let Some(first) = gone.first() {
            self.last = first.before;
        }
        self.life += 1;
        self.is_doubtful = is_told;
        self.cut();
        gone.len()
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Lose the presence table.
    pub fn forget_workers(&mut self) {
        self.workers.clear();
    }
}

impl MemoryStore {
    /// Look at the store, or break it.
    pub fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        let done = act(&mut self.0.0.lock());
        self.0.1.notify_waiters();
        done
    }

    async fn ask<T>(&self, generation: u64, act: impl FnOnce(&mut Memory) -> T) -> Answer<T> {
        let delay = self.0.0.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut memory = self.reach(generation)?;
        Ok(act(&mut memory))
    }

    fn reach(&self, generation: u64) -> Answer<MutexGuard<'_, Memory>> {
        let memory = self.0.0.lock();
        if memory.is_down || memory.generation != generation {
            return Err(StoreError::connection("the connection broke"));
        }
        Ok(memory)
    }

    fn generation(&self) -> u64 {
        self.0.0.lock().generation
    }
}

impl Store for MemoryStore {
    type Log = MemoryLog;

    const THREAD: &'static str = "memory";

    const DOUBT: &'static str = "the test says so";

    fn place(&self) -> &'static str {
        "memory"
    }

    fn log_name(&self) -> &'static str {
        "events"
    }

    fn timeout(&self) -> Duration {
        TIMEOUT
    }

    fn connect_timeout(&self) -> Duration {
        TIMEOUT
    }

    async fn open(&self, _is_redirected: bool) -> Answer<Opened<MemoryLog>> {
        let generation = self.generation();
        let is_doubtful = self
            .ask(generation, |memory| {
                memory.take_over();
                std::mem::take(&mut memory.is_doubtful)
            })
            .await?;
        let log = MemoryLog { store: self.clone(), generation };
        Ok(Opened { log, is_doubtful, warnings: Vec::new() })
    }

    fn log(&self) -> MemoryLog {
        MemoryLog { store: self.clone(), generation: self.generation() }
    }

    async fn connect(&self) -> Answer<()> {
        self.ask(self.generation(), |_| ()).await
    }

    async fn disconnect(&self) {}

    async fn append(&self, batch: Vec<Append<'_>>) -> Vec<Result<StreamId, AppendError>> {
        let count = batch.len();
        let appended = self
            .ask(self.generation(), |memory| {
                memory.take_over();
                let ids: Vec<_> = batch.into_iter().map(|entry| memory.append_checked(entry)).collect();
                let is_lost = std::mem::take(&mut memory.loses_reply);
                (ids, is_lost)
            })
            .await;
        self.0.1.notify_waiters();
        match appended {
            Ok((ids, false)) => ids,
            Ok(_) => (0..count).map(|_| Err(AppendError::Unknown("the reply was lost".into()))).collect(),
            Err(error) => (0..count).map(|_| Err(AppendError::Refused(error.text.clone()))).collect(),
        }
    }

    async fn lease(&self, name: &str, token: &str, ttl: Duration) -> Answer<bool> {
        self.ask(self.generation(), |memory| {
            let is_free = memory.holder(name).is_none_or(|holder| holder == token);
            if is_free {
                memory.leases.insert(name.into(), (token.into(), Instant::now() + ttl));
            }
            is_free
        })
        .await
    }

    async fn release(&self, name: &str, token: &str) -> Answer<()> {
        self.ask(self.generation(), |memory| {
            if memory.holder(name) == Some(token) {
                memory.leases.remove(name);
            }
        })
        .await
    }

    async fn holder(&self, name: &str) -> Answer<Option<String>> {
        self.ask(self.generation(), |memory| {
            memory.asked_for_holder += 1;
            memory.holder(name).map(Into::into)
        })
        .await
    }

    async fn ended(&self, topics: &[Topic]) -> Answer<Vec<(Topic, Ended)>> {
        self.ask(self.generation(), |memory| {
            memory.asked_for_ends += 1;
            if memory.is_silent_on_ends {
                return Err(StoreError::refused("no answer"));
            }
            let ended = |topic: &Topic| {
                let (until, id, note) = memory.ended.get(topic.as_str())?;
                let left = until.saturating_duration_since(Instant::now());
                let ended = Ended { id: *id, left, note: (**note).into() };
                (!left.is_zero()).then(|| (topic.clone(), ended))
            };
            Ok(topics.iter().filter_map(ended).collect())
        })
        .await?
    }

    async fn write_presence(&self, worker: &str, write: PresenceWrite<'_>) -> Answer<bool> {
        self.ask(self.generation(), |memory| {
            let found = memory.workers.iter_mut().find(|(name, _)| name == worker);
            match (write, found) {
                (PresenceWrite::Replace(all), Some((_, list))) => *list = all.to_vec(),
                (PresenceWrite::Replace(all), None) => memory.workers.push((worker.into(), all.to_vec())),
                (PresenceWrite::Update(changes), Some((_, list))) => list.extend_from_slice(changes),
                (PresenceWrite::Update(_), None) => return false,
            }
            true
        })
        .await
    }

    async fn remove_presence(&self, worker: &str) -> Answer<()> {
        self.ask(self.generation(), |memory| memory.workers.retain(|(name, _)| name != worker)).await
    }

    async fn present(&self, topic: &str) -> Answer<Vec<String>> {
        self.ask(self.generation(), |memory| memory.present(topic)).await
    }

    async fn claim(&self, worker: &str, topic: &str, subscriber: &str, limit: usize) -> Answer<Option<bool>> {
        self.ask(self.generation(), |memory| {
            let has_room = memory.present(topic).len() < limit;
            let (_, list) = memory.workers.iter_mut().find(|(name, _)| name == worker)?;
            if has_room {
                let topics = vec![topic.into()];
                list.push(PresenceChange { subscriber: subscriber.into(), topics, is_in: true });
            }
            Some(has_room)
        })
        .await
    }
}

/// The log, by one connection.
pub struct MemoryLog {
    store: MemoryStore,
    generation: u64,
}

impl Log for MemoryLog {
    async fn last(&mut self) -> Answer<Option<StreamId>> {
        self.store.ask(self.generation, |memory| Some(memory.last)).await
    }

    async fn begin(&mut self) -> Answer<StreamId> {
        self.store.ask(self.generation, |memory| memory.last).await
    }

    async fn after(&mut self, id: StreamId, count: usize) -> Answer<Vec<Arrived>> {
        let ask = |memory: &mut Memory| {
            memory.asked_for_entries += 1;
            memory.after(id, count)
        };
        self.store.ask(self.generation, ask).await
    }

    async fn wait_after(&mut self, id: StreamId, count: usize, wait: Duration) -> Answer<Vec<Arrived>> {
        let end = tokio::time::Instant::now() + wait;
        loop {
            let store = self.store.clone();
            let changed = store.0.1.notified();
            let page = self
                .store
                .ask(
                    self.generation,
                    |memory| {
                        if memory.is_held { Vec::new() } else { memory.after(id, count) }
                    },
                )
                .await?;
            let now = tokio::time::Instant::now();
            if !page.is_empty() || now >= end {
                return Ok(page);
            }
            let _ = tokio::time::timeout((end - now).min(LOOK), changed).await;
        }
    }

    async fn backwards(&mut self, end: StreamId, is_included: bool, count: usize) -> Answer<Vec<Arrived>> {
        self.store
            .ask(self.generation, |memory| {
                let wanted = |entry: &&Kept| entry.id < end || (is_included && entry.id == end);
                memory.entries.iter().rev().filter(wanted).take(count).map(Kept::arrived).collect()
            })
            .await
    }

    async fn now(&mut self) -> Answer<u64> {
        self.store.ask(self.generation, |memory| memory.ms).await
    }

    async fn is_doubtful(&mut self) -> Answer<bool> {
        self.store.ask(self.generation, |memory| memory.is_doubtful && !memory.refuses_gaps).await
    }
}
