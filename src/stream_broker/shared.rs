//! The state that the tasks of a broker share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::acknowledged::Acknowledged;
use super::changes::Changes;
use super::kept::Kept;
use super::lives::Lives;
use super::outbox::Outbox;
use super::own_leases::Leases;
use super::pages::Pages;
use super::store::{Store, StoreError};
use crate::broker::letter::Letter;
use crate::hub::Hub;
use crate::ids::{StreamId, SubscriberId};

/// The pause between two checks of readers that are behind.
const BEHIND: Duration = Duration::from_millis(5);
/// How long the log may stay unread because readers are behind, before dead readers are looked for: longer than a
/// burst takes.
const LAGGING: Duration = Duration::from_millis(250);

/// Receives reports for the operator. Called on the broker's thread, so it must not wait.
pub trait Observer: Send + Sync {
    /// Report that something failed, or works again.
    fn warn(&self, message: String);

    /// The log is not read, because readers are behind. The observer should remove dead readers from the hub.
    fn lagging(&self);
}

/// How many newcomers asked where they begin, and how many of them have their answer.
#[derive(Default)]
pub struct Newcomers {
    asked: AtomicU64,
    answered: watch::Sender<u64>,
}

impl Newcomers {
    /// A newcomer asks. Release: a publisher that takes what this thread publishes next sees the question.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Release);
    }

    /// A newcomer has its answer, or has left.
    pub fn answer(&self) {
        self.answered.send_modify(|count| *count += 1);
    }

    /// Wait until those that have asked have their answers, but not for long.
    pub async fn settled(&self, patience: Duration) {
        let asked = self.asked.load(Ordering::Acquire);
        if *self.answered.borrow() < asked {
            let mut answered = self.answered.subscribe();
            let all = answered.wait_for(|count| *count >= asked);
            let _ = tokio::time::timeout(patience, all).await;
        }
    }
}

/// The state that the broker's tasks share.
pub struct Shared<S> {
    pub store: S,
    pub kept: Kept,
    pub backlog_bytes: usize,
    pub hub: Weak<Hub>,
    pub observer: Box<dyn Observer>,
    /// The name of this process among the workers.
    pub worker: Box<str>,
    pub outbox: Outbox,
    /// Relaxed: a counter.
    pub failed: AtomicU64,
    /// Stored with release when the connection is made, loaded with acquire: a thread that sees it also sees what the
    /// follower wrote before.
    pub connected: AtomicBool,
    /// When the first attempt to follow the log began.
    pub started: Instant,
    /// Why the log could not be followed at the last attempt; empty during the first one.
    pub why: Mutex<String>,
    /// Notified when the connection is made or lost.
    pub connection_changed: Notify,
    /// Whether the position from which this process delivers the log is known.
    pub joined: watch::Sender<bool>,
    pub pages: Pages,
    /// Newcomers that have yet to be let in: what was published after them comes after them.
    pub newcomers: Newcomers,
    /// The id up to which the log was delivered.
    pub progress: watch::Sender<Option<StreamId>>,
    pub acknowledged: Acknowledged,
    pub presence: Mutex<Changes>,
    /// Notified when presence has something to write.
    pub presence_news: Notify,
    /// Notified when the hub has topics that may have ended by entries that this process does not read.
    pub unknown_ends: Notify,
    pub leases: Leases,
    pub lives: Arc<Lives>,
    pub writing_presence: tokio::sync::Mutex<()>,
    pub stopping: watch::Sender<bool>,
    /// The operator knows that the store refuses to say what clients missed. Relaxed: it only limits warnings.
    pub refusal_reported: AtomicBool,
}

impl<S: Store> Shared<S> {
    pub fn warn(&self, message: &str) {
        self.observer.warn(message.to_owned());
    }

    /// Whether there is a hub to deliver to.
    pub fn has_hub(&self) -> bool {
        self.hub.strong_count() > 0
    }

    /// Note what presence must write.
    pub fn note_presence(&self, note: impl FnOnce(&mut Changes)) {
        note(&mut self.presence.lock());
        self.presence_news.notify_one();
    }

    /// Wait until the readers have room for more.
    pub async fn until_delivered(&self) {
        let mut since = Instant::now();
        while self.hub.upgrade().is_some_and(|hub| hub.is_behind()) {
            if since.elapsed() >= LAGGING {
                since = Instant::now();
                self.observer.lagging();
            }
            tokio::time::sleep(BEHIND).await;
        }
    }

    /// After a letter failed, close the streams of this process that it would have closed.
    pub fn fall_back(&self, letter: &Letter) {
        let Letter::Kick { whose, reason } = letter else { return };
        if let Some(hub) = self.hub.upgrade() {
            hub.kick(whose, reason);
        }
    }

    /// Whether a subscriber is still registered.
    pub fn has(&self, subscriber: SubscriberId) -> bool {
        self.hub.upgrade().is_some_and(|hub| hub.has(subscriber))
    }

    /// The store refuses to be read, so nothing can be proven.
    pub fn report_refusal(&self, error: &StoreError) {
        if !self.refusal_reported.swap(true, Ordering::Relaxed) {
            self.warn(&format!(
                "{} refuses to give what clients missed, so they are reset: {error}",
                self.store.place()
            ));
        }
    }
}
