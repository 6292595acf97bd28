//! The way to Redis: letters are queued, sent in pipelines, and each learns what became of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Pipeline, RedisError};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Shared;
use super::link::{Backoff, describe, is_useless};
use super::scripts::PUBLISH;
use crate::broker::letter::Letter;
use crate::error::{Error, Result};
use crate::ids::StreamId;
use crate::outcome::{Failure, Outcome, Sent};

/// How long to wait for the follower before another look at what waits.
const JOINING: Duration = Duration::from_millis(250);
/// Letters sent in one pipeline, at most; and about how many bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// What Redis says, or why it refuses.
type Reply<T> = std::result::Result<T, RedisError>;
/// What a letter costs beside its bytes, about: its topics, its place, its outcome, the allocator's part.
const LETTER_OVERHEAD: usize = 320;

/// A letter and who waits to hear of it.
struct Posted {
    letter: Letter,
    outcome: Arc<Outcome>,
    at: Instant,
}

impl Drop for Posted {
    fn drop(&mut self) {
        // Whatever became of the task that had it, nobody waits for ever. Known already, this does nothing.
        self.outcome.complete(Err(Failure::Unknown("the connection to the broker has failed".into())));
    }
}

/// What a letter that waits costs, about: small ones are many.
fn size(letter: &Letter) -> usize {
    letter.len() + LETTER_OVERHEAD
}

#[derive(Default)]
struct Queue {
    letters: VecDeque<Posted>,
    bytes: usize,
    /// Letters that were sent and have no reply yet.
    sent: usize,
    /// Nobody sends any more.
    closed: bool,
}

/// What waits for the connection.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    posted: Notify,
}

impl Outbox {
    /// Queue a letter.
    pub fn post(&self, letter: Letter, limit: usize) -> Result<Arc<Outcome>> {
        let size = size(&letter);
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Error::HubClosed);
        }
        if queue.bytes > 0 && queue.bytes + size > limit {
            return Err(Error::HubFull { waiting: queue.bytes, limit });
        }
        let outcome = Arc::new(Outcome::default());
        queue.bytes += size;
        queue.letters.push_back(Posted { letter, outcome: outcome.clone(), at: Instant::now() });
        drop(queue);
        self.posted.notify_one();
        Ok(outcome)
    }

    /// Nothing is sent any more.
    pub fn abandon(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.sent = 0;
        queue.bytes = 0;
        let letters = std::mem::take(&mut queue.letters);
        drop(queue);
        drop(letters);
    }

    /// How many letters have no outcome yet.
    pub fn unsent(&self) -> usize {
        let queue = self.queue.lock();
        queue.letters.len() + queue.sent
    }

    /// Nothing is taken any more. False when something waits to be sent.
    fn close(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.closed = queue.letters.is_empty();
        queue.closed
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().letters.is_empty()
    }

    fn take(&self) -> Vec<Posted> {
        let mut queue = self.queue.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(posted) = queue.letters.front() {
            let size = size(&posted.letter);
            if batch.len() == BATCH || (bytes > 0 && bytes + size > BATCH_BYTES) {
                break;
            }
            bytes += size;
            batch.extend(queue.letters.pop_front());
        }
        queue.bytes -= bytes;
        queue.sent += batch.len();
        batch
    }

    /// Nothing of this was taken: it is sent elsewhere, in the same order.
    fn put_back(&self, batch: Vec<Posted>) {
        let mut queue = self.queue.lock();
        queue.sent -= batch.len();
        for posted in batch.into_iter().rev() {
            queue.bytes += size(&posted.letter);
            queue.letters.push_front(posted);
        }
    }

    /// The letters that have waited too long.
    fn expired(&self, age: Duration) -> Vec<Posted> {
        let mut queue = self.queue.lock();
        let mut expired = Vec::new();
        while queue.letters.front().is_some_and(|posted| posted.at.elapsed() >= age) {
            if let Some(posted) = queue.letters.pop_front() {
                queue.bytes -= size(&posted.letter);
                queue.sent += 1;
                expired.push(posted);
            }
        }
        expired
    }

    fn done(&self, count: usize) {
        self.queue.lock().sent -= count;
    }
}

/// Whether it is a command in the script that failed, for which Redis says where in the script: entries may have
/// been written before it.
fn is_midway(error: &RedisError) -> bool {
    error.to_string().contains("user_script")
}

/// Send what is posted, until the broker stops and everything was sent.
pub async fn run(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    loop {
        while shared.outbox.is_empty() {
            if *stopping.borrow_and_update() && shared.outbox.close() {
                return;
            }
            tokio::select! {
                () = shared.outbox.posted.notified() => {}
                _ = stopping.changed() => {}
            }
        }
        let mut backoff = Backoff::new();
        let connection = loop {
            let reason = match shared.commands.get(&shared.server).await {
                Ok(connection) if shared.has_joined().await => break Some(connection),
                Ok(_) => format!("its stream cannot be followed: {}", shared.why.lock()),
                Err(reason) => reason,
            };
            let late = shared.outbox.expired(shared.server.timeout);
            let text = format!("{} cannot be reached: {reason}", shared.server.shown);
            shared.give(late, |_| Err(Failure::Refused(text.as_str().into())));
            if shared.outbox.is_empty() {
                break None;
            }
            backoff.pause().await;
        };
        let Some(mut connection) = connection else { continue };
        let batch = shared.outbox.take();
        let pipeline = shared.pipeline(&batch);
        let replies = pipeline.query_async::<Vec<Reply<Vec<Reply<String>>>>>(&mut connection);
        match timeout(shared.server.timeout, replies).await {
            Ok(Ok(mut replies)) => shared.replied(batch, replies.pop()).await,
            failed => {
                shared.commands.broke().await;
                let reason: Arc<str> = match failed {
                    Ok(Err(error)) => {
                        format!("the reply of {} was lost: {}", shared.server.shown, describe(&error))
                    }
                    _ => format!("{} did not reply within {:?}", shared.server.shown, shared.server.timeout),
                }
                .into();
                shared.give(batch, |_| Err(Failure::Unknown(reason.clone())));
            }
        }
    }
}

impl Shared {
    /// Whether this process will deliver what it sends now. Before it has joined the stream, that would be the past
    /// to it, and what is for one of its own clients would reach nobody.
    async fn has_joined(&self) -> bool {
        let mut joined = self.joined.subscribe();
        timeout(JOINING, joined.wait_for(|joined| *joined)).await.is_ok()
    }

    /// One call of the script for the whole batch: asking the stream for its last id is most of what an entry costs
    /// Redis. A pipeline, because it alone gives what was refused beside what was not.
    fn pipeline(&self, batch: &[Posted]) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let age = self.kept.age.map_or_else(String::new, |age| age.as_millis().to_string());
        let command = pipeline.cmd("EVAL").arg(PUBLISH).arg(1).arg(&self.keys.events);
        command.arg(self.kept.count).arg(age).arg(self.kept.min_age.as_millis().to_string());
        for posted in batch {
            let fields = posted.letter.fields();
            command.arg(2 * fields.len());
            for (field, value) in fields {
                command.arg(field).arg(value);
            }
        }
        pipeline
    }

    async fn replied(&self, batch: Vec<Posted>, reply: Option<Reply<Vec<Reply<String>>>>) {
        let replies = match reply {
            Some(Ok(replies)) => replies,
            Some(Err(error)) if is_midway(&error) => {
                let text = format!("the script failed at {}: {}", self.server.shown, describe(&error));
                let reason: Arc<str> = text.into();
                self.give(batch, |_| Err(Failure::Unknown(reason.clone())));
                return;
            }
            Some(Err(error)) => vec![Err(error); batch.len()],
            None => Vec::new(),
        };
        // All keys of a hub are at one node of a cluster: it took all of it, or nothing.
        let is_elsewhere =
            |reply: &Reply<String>| matches!(reply, Err(error) if self.commands.moved.says(error));
        if !replies.is_empty() && replies.iter().all(is_elsewhere) {
            self.commands.broke().await;
            self.outbox.put_back(batch);
            // A cluster that is being changed may send us around for a while.
            let late = self.outbox.expired(self.server.timeout);
            let reason: Arc<str> = format!("{} has moved the hub's keys", self.server.shown).into();
            self.give(late, |_| Err(Failure::Refused(reason.clone())));
            tokio::time::sleep(Duration::from_millis(10)).await;
            return;
        }
        let mut useless = false;
        let mut replies = replies.into_iter();
        let outcomes: Vec<Sent> = batch
            .iter()
            .map(|posted| match replies.next() {
                Some(Ok(id)) => Ok(self.published(&id, &posted.letter)),
                Some(Err(error)) => {
                    useless |= is_useless(&error);
                    Err(Failure::Refused(
                        format!("{} refused the event: {}", self.server.shown, describe(&error)).into(),
                    ))
                }
                None => Err(Failure::Unknown("a reply is missing".into())),
            })
            .collect();
        if useless {
            self.commands.broke().await;
        }
        let mut outcomes = outcomes.into_iter();
        self.give(batch, |_| outcomes.next().unwrap_or(Ok(None)));
    }

    fn published(&self, id: &str, letter: &Letter) -> Option<crate::ids::EventId> {
        let id = StreamId::parse(id)?;
        let mut last = self.last_sent.lock();
        *last = id.max(*last);
        drop(last);
        id.event_id().filter(|_| letter.carries_id())
    }

    /// Tell everybody what became of their letters.
    fn give(&self, batch: Vec<Posted>, mut outcome: impl FnMut(&Posted) -> Sent) {
        let count = batch.len();
        let (mut failed, mut unseen, mut why) = (0, 0, None);
        for posted in batch {
            let sent = outcome(&posted);
            if let Err(failure) = &sent {
                failed += 1;
                why = Some(failure.clone());
                self.fallback(&posted.letter);
            }
            unseen += usize::from(posted.outcome.complete(sent));
        }
        self.outbox.done(count);
        self.failed.fetch_add(failed, Ordering::Relaxed);
        if let Some(why) = why.filter(|_| unseen > 0) {
            self.warn(&format!("{unseen} of what was published failed: {why}"));
        }
    }
}
