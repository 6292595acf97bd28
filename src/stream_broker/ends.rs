//! Topics that have ended by entries that this process has not read and will not read: the log had trimmed them, or they
//! were in a gap. The store knows them; it is asked about many topics at once, one question after the other, however
//! many clients come at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::envelope::read_note;
use super::shared::Shared;
use super::store::{Ended, Store};
use crate::ids::StreamId;
use crate::topic::Topic;

/// The topics of one question. Redis is asked by a script, which keeps all others waiting: for 0.1 ms.
const PAGE: usize = 256;
/// For how long other topics, which may come all the time, keep the store from being asked about a topic again.
const ROUND: Duration = Duration::from_millis(250);

/// Ask about the topics for which the hub looks, until the task is dropped.
pub async fn run<S: Store>(shared: Arc<Shared<S>>) {
    let mut backoff = Backoff::new();
    loop {
        let left = shared.look_for_ends().await;
        if left.is_empty() {
            backoff = Backoff::new();
            shared.unknown_ends.notified().await;
            continue;
        }
        if let Some(hub) = shared.hub.upgrade() {
            hub.return_unknown_ends(&left);
        }
        backoff.pause().await;
    }
}

impl<S: Store> Shared<S> {
    /// Find out which topics have ended. Returns those about which the store must be asked again.
    async fn look_for_ends(&self) -> Vec<Topic> {
        let (mut left, since) = (Vec::new(), Instant::now());
        loop {
            if !left.is_empty() && since.elapsed() >= ROUND {
                return left;
            }
            let page = self.hub.upgrade().map(|hub| hub.take_unknown_ends(PAGE)).unwrap_or_default();
            if page.is_empty() {
                return left;
            }
            let asked = Instant::now();
            let Ok(ended) = self.store.ended(&page).await else {
                left.extend(page);
                return left;
            };
            for (topic, ended) in ended {
                self.adopt_end(&topic, &ended, asked);
                if !self.has_followed(ended.id) {
                    // This process is about to read that entry, unless the log has lost its end.
                    left.push(topic);
                }
            }
            // Clients come first: a store may answer without waiting for anything.
            tokio::task::yield_now().await;
        }
    }

    /// The store says how a topic ended, and was asked at a certain time. If this process has read that entry, or
    /// missed it in a gap, the hub knows the end from now on.
    pub fn adopt_end(&self, topic: &Topic, ended: &Ended, asked: Instant) {
        let left = ended.left.saturating_sub(asked.elapsed());
        let Some(ending) = read_note(&ended.note).filter(|_| self.has_followed(ended.id) && !left.is_zero())
        else {
            return;
        };
        if let Some(hub) = self.hub.upgrade() {
            hub.adopt_end(topic, ended.id, left, &ending);
            self.lives.changed(topic, Some(ending.state));
        }
    }

    /// Whether this process has read the log up to an id.
    pub fn has_followed(&self, id: StreamId) -> bool {
        self.progress.borrow().is_some_and(|at| at >= id)
    }
}
