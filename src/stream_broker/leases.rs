//! Leases: the right, of one process at a time, to do something. The holder renews them; a process that dies, or is
//! paused, loses them, and the log then refuses what it writes under them. Every process watches the runs that it
//! follows: a run whose lease nobody holds is declared lost; the log's order decides that this happens once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::shared::Shared;
use super::store::Store;
use crate::broker::letter::{Fence, Letter, Step};
use crate::ending::{EndState, Ending};
use crate::outcome::Failure;
use crate::topic::Topic;

/// How long a lease is held after it was last renewed.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often leases are renewed, and runs checked.
const EVERY: Duration = Duration::from_secs(1);
/// How long a lost run is kept: its own `keep` died with its process.
const KEEP_LOST: Duration = Duration::from_secs(300);

/// The lease of a run.
#[must_use]
pub fn of_run(topic: &str) -> Arc<str> {
    format!("run:{topic}").into()
}

/// Renew held leases and check runs, until the broker stops; then release all leases.
pub async fn run<S: Store>(shared: Arc<Shared<S>>) {
    let mut stopping = shared.stopping.subscribe();
    // Runs that had no holder at the last check: one that has just begun elsewhere gets the time to be followed.
    let mut orphans: Vec<Arc<str>> = Vec::new();
    while !*stopping.borrow_and_update() {
        let _ = tokio::time::timeout(EVERY, stopping.changed()).await;
        shared.renew_leases().await;
        if shared.connected.load(Ordering::Acquire) {
            orphans = shared.look_after_runs(&orphans).await;
        }
    }
    for (name, token) in shared.leases.all() {
        let _ = shared.store.release(&name, &token).await;
    }
}

impl<S: Store> Shared<S> {
    pub async fn take_lease(&self, name: Arc<str>, token: Arc<str>) -> Result<bool, Failure> {
        let until = Instant::now() + LEASE;
        match self.store.lease(&name, &token, LEASE).await {
            Ok(true) => self.leases.add(name, token, until),
            Ok(false) => return Ok(false),
            Err(error) => {
                let text = format!("{} gave no lease: {error}", self.store.place());
                return Err(Failure::Refused(text.into()));
            }
        }
        Ok(true)
    }

    pub async fn is_leased(&self, name: &str) -> Result<bool, Failure> {
        self.store.is_leased(name).await.map_err(|error| {
            Failure::Refused(
                format!("{} did not say which process runs it: {error}", self.store.place()).into(),
            )
        })
    }

    async fn renew_leases(&self) {
        for (name, token) in self.leases.all() {
            let until = Instant::now() + LEASE;
            match self.store.lease(&name, &token, LEASE).await {
                Ok(true) => self.leases.renewed(&name, &token, until),
                Ok(false) => drop(self.leases.forget(&name, &token)),
                // It may still be held; if not, the log refuses what needs it.
                Err(_) => {}
            }
        }
    }

    /// Declare those runs lost that nobody held at the last check either. Returns those that nobody holds.
    async fn look_after_runs(&self, before: &[Arc<str>]) -> Vec<Arc<str>> {
        let Some(hub) = self.hub.upgrade() else { return Vec::new() };
        let mut orphans = Vec::new();
        for name in hub.running() {
            let lease = of_run(&name);
            if !matches!(self.store.is_leased(&lease).await, Ok(false)) {
                continue;
            }
            if before.contains(&name)
                && let Ok(topic) = Topic::new(&name)
            {
                let ending = Ending { state: EndState::Lost, error: None };
                let letter = Letter::Life { topic, step: Step::End { keep: KEEP_LOST, ending } };
                // Another process may be first, or the run's owner may come back: the log decides.
                if let Ok(outcome) = self.outbox.post(letter, Some(Fence::Free { lease }), self.backlog_bytes)
                {
                    outcome.ignore();
                }
            }
            orphans.push(name);
        }
        orphans
    }
}
