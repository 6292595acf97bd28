//! Presence over all workers: each writes its own subscribers to the store, where they expire with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::changes::Changes;
use super::shared::Shared;
use super::store::{PresenceWrite, Store};
use crate::broker::PresenceChange;
use crate::hub::name_in_presence;
use crate::ids::SubscriberId;
use crate::outcome::Failure;

/// How long a worker counts as alive after it last wrote.
pub const PRESENCE_TTL: Duration = Duration::from_secs(15);
/// How often this worker writes that it is alive.
const ALIVE: Duration = Duration::from_secs(5);
/// How often changes are written.
const EVERY: Duration = Duration::from_millis(200);
/// The pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const DELETED: &str = "the subscribers of this process are deleted there as soon as they are written";

/// Write changes, and that this worker is alive, until the broker stops.
pub async fn run<S: Store>(shared: Arc<Shared<S>>) {
    let mut alive: Option<Instant> = None;
    let mut failed: Option<Instant> = None;
    let mut stopping = shared.stopping.subscribe();
    while !*stopping.borrow_and_update() {
        tokio::select! {
            _ = stopping.changed() => continue,
            () = shared.until_presence_is_due(alive) => {}
        }
        if !shared.presence.lock().is_used || !shared.connected.load(Ordering::Acquire) {
            continue;
        }
        // After a failure the whole table is written, which is expensive: not too often.
        if failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE) {
            continue;
        }
        let is_due = alive.is_none_or(|at| at.elapsed() >= ALIVE);
        if is_due || shared.presence.lock().wait() {
            let now = Some(Instant::now());
            match shared.write_presence().await {
                Ok(()) => alive = now,
                Err(_) => failed = now,
            }
        }
    }
    if shared.presence.lock().is_used {
        let _ = shared.store.remove_presence(&shared.worker).await;
    }
}

impl<S: Store> Shared<S> {
    /// Wait until there may be something to write. A worker whose subscribers do not change wakes only to write that it
    /// is alive, and one that never had a subscriber does not wake at all: an idle process costs nothing.
    async fn until_presence_is_due(&self, alive: Option<Instant>) {
        loop {
            let (is_used, waits) = {
                let presence = self.presence.lock();
                (presence.is_used, presence.wait())
            };
            if is_used && waits {
                // Changes that follow each other soon are written together.
                return tokio::time::sleep(EVERY).await;
            }
            let left = alive.map_or(EVERY, |at| ALIVE.saturating_sub(at.elapsed()));
            tokio::select! {
                () = self.presence_news.notified() => {}
                () = tokio::time::sleep(left.max(EVERY)), if is_used => return,
            }
        }
    }

    /// Write the changes, and that this worker is alive; the whole table if the store has lost it.
    async fn write_presence(&self) -> Result<(), String> {
        let _writing = self.writing_presence.lock().await;
        self.write_whole().await
    }

    /// The same by a caller that has locked `writing_presence`.
    async fn write_whole(&self) -> Result<(), String> {
        if self.write_changes().await? || self.write_changes().await? {
            return Ok(());
        }
        Err(DELETED.into())
    }

    /// Claim a place among the streams of a user.
    pub async fn claim(&self, user: &str, subscriber: SubscriberId, limit: usize) -> Result<bool, Failure> {
        let claimed = self.claim_in_store(user, subscriber, limit).await;
        claimed.map_err(|why| {
            let text = format!("{} did not count the user's streams: {why}", self.store.place());
            Failure::Refused(text.into())
        })
    }

    async fn claim_in_store(
        &self,
        user: &str,
        subscriber: SubscriberId,
        limit: usize,
    ) -> Result<bool, String> {
        // Until the hub knows of the grant, no whole table is written, which would lack it.
        let _writing = self.writing_presence.lock().await;
        self.presence.lock().is_used = true;
        for _ in 0..2 {
            self.write_whole().await?;
            let (name, id) = (name_in_presence(user), subscriber.public());
            match self.store.claim(&self.worker, &name, &id, limit).await {
                Ok(Some(true)) => {
                    let is_wanted = self.hub.upgrade().is_some_and(|hub| hub.grant_claim(subscriber));
                    if !is_wanted {
                        self.note_presence(|presence| {
                            presence.note(PresenceChange::of_user(subscriber, user, false));
                        });
                    }
                    return Ok(is_wanted);
                }
                Ok(Some(false)) => return Ok(false),
                Ok(None) => self.note_presence(Changes::outdate),
                Err(error) => {
                    // It may have been granted, and the reply was lost.
                    self.note_presence(Changes::outdate);
                    return Err(error.text);
                }
            }
        }
        Err(DELETED.into())
    }

    /// Write the changes. Returns whether the store's table is complete; if not, all of it is written the next time.
    async fn write_changes(&self) -> Result<bool, String> {
        let changes = self.presence.lock().take();
        let written = if let Some(changes) = changes {
            self.store.write_presence(&self.worker, PresenceWrite::Update(&changes)).await
        } else {
            let all = self.hub.upgrade().map(|hub| hub.presence()).unwrap_or_default();
            self.store.write_presence(&self.worker, PresenceWrite::Replace(&all)).await
        };
        let is_whole = written.map_err(|error| error.text);
        if is_whole != Ok(true) {
            self.note_presence(Changes::outdate);
        }
        is_whole
    }

    /// The public ids of the subscribers of a topic at all workers, sorted; `None` asks for the whole hub.
    pub async fn present(&self, topic: Option<String>) -> Result<Vec<String>, Failure> {
        let refuse = |reason: String| {
            Failure::Refused(
                format!("{} did not say which subscribers there are: {reason}", self.store.place()).into(),
            )
        };
        // Flush first, so that the caller sees its own subscribers.
        if self.presence.lock().is_used {
            self.write_presence().await.map_err(refuse)?;
        }
        let present = self.store.present(topic.as_deref().unwrap_or_default()).await;
        let mut ids = present.map_err(|error| refuse(error.text))?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}
