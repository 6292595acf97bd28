//! What the tasks of a broker share.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::acknowledged::Acknowledged;
use super::changes::Changes;
use super::held::Leases;
use super::kept::Kept;
use super::outbox::Outbox;
use super::pages::Pages;
use super::store::{Store, StoreError};
use crate::broker::letter::Letter;
use crate::hub::Hub;
use crate::ids::{StreamId, SubscriberId};

/// How long to wait for readers that are behind, at a time.
const BEHIND: Duration = Duration::from_millis(5);
/// How long the log is not read because of readers that are behind, before they are checked: longer than a burst
/// takes.
const LAGGING: Duration = Duration::from_millis(250);

/// Hears what an operator should know. Called on the broker's thread, which must not wait.
pub trait Observer: Send + Sync {
    /// Something went wrong, or is right again.
    fn warn(&self, message: String);

    /// Nothing more is read, because readers are behind. Readers that are dead should be removed from the hub.
    fn lagging(&self);
}

/// What the broker's tasks share.
pub struct Shared<S> {
    pub store: S,
    pub kept: Kept,
    pub backlog_bytes: usize,
    pub hub: Weak<Hub>,
    pub observer: Box<dyn Observer>,
    /// This process among the workers.
    pub worker: Box<str>,
    pub outbox: Outbox,
    /// Relaxed: a counter.
    pub failed: AtomicU64,
    /// Release when the connection stands, acquire where it is asked: a thread that sees it has what the follower wrote
    /// before.
    pub connected: AtomicBool,
    /// Why the log could not be followed at the last attempt.
    pub why: Mutex<String>,
    /// The connection came or went.
    pub connection_changed: Notify,
    /// Whether the place from which this process delivers the log is known.
    pub joined: watch::Sender<bool>,
    pub pages: Pages,
    /// Up to where the log was delivered.
    pub progress: watch::Sender<Option<StreamId>>,
    pub acknowledged: Acknowledged,
    pub presence: Mutex<Changes>,
    pub leases: Leases,
    pub writing_presence: tokio::sync::Mutex<()>,
    pub stopping: watch::Sender<bool>,
    /// The operator knows that the store refuses to say what clients missed. Relaxed: it only limits warnings.
    pub refusal_reported: AtomicBool,
}

impl<S: Store> Shared<S> {
    pub fn warn(&self, message: &str) {
        self.observer.warn(message.to_owned());
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

    /// A letter did not get through: streams that it was to end still end, those of this process.
    pub fn fall_back(&self, letter: &Letter) {
        let Letter::Kick { whose, reason } = letter else { return };
        if let Some(hub) = self.hub.upgrade() {
            hub.kick(whose, reason);
        }
    }

    /// Whether a client is still there.
    pub fn has(&self, subscriber: SubscriberId) -> bool {
        self.hub.upgrade().is_some_and(|hub| hub.has(subscriber))
    }

    /// The store refuses to be asked: nothing can be proven.
    pub fn report_refusal(&self, error: &StoreError) {
        if !self.refusal_reported.swap(true, Ordering::Relaxed) {
            self.warn(&format!("{} does not say what clients missed: {error}", self.store.place()));
        }
    }
}
