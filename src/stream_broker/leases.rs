//! Leases: the right, of one process at a time, to do something. The holder renews them; a process that dies, or is
//! paused, loses them, and the log then refuses what it writes under them. A holder that releases a lease for which
//! others wait does so by an entry of the log, which wakes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::shared::Shared;
use super::store::{Log, Store};
use crate::broker::letter::{Fence, Letter};
use crate::outcome::Failure;

/// How long a lease is held after it was last renewed.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often leases are renewed, runs are checked, and a lease is tried whose holder may have died.
const EVERY: Duration = Duration::from_secs(1);

/// Renew held leases and check runs, until the broker stops; then release all leases.
pub async fn run<S: Store>(shared: Arc<Shared<S>>) {
    let mut stopping = shared.stopping.subscribe();
    // Runs that had no holder at the last check: one that has just begun elsewhere gets the time to be followed.
    let mut orphans: Vec<Arc<str>> = Vec::new();
    while !*stopping.borrow_and_update() {
        tokio::select! {
            _ = stopping.changed() => {}
            () = shared.until_runs_are_due() => {}
        }
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
    /// Wait until leases may have to be renewed, and runs to be checked. A process without any sleeps until there are.
    async fn until_runs_are_due(&self) {
        let has_runs =
            !self.leases.is_empty() || self.hub.upgrade().is_some_and(|hub| !hub.running().is_empty());
        if has_runs {
            tokio::time::sleep(EVERY).await;
        } else {
            self.lives.news.notified().await;
        }
    }

    /// Note that a lease is wanted, and have it renewed once it is held. As [`super::own_leases::Leases::want`].
    pub fn want(&self, name: Arc<str>, token: Arc<str>, is_awaited: bool) -> Arc<Notify> {
        let changed = self.leases.want(name, token, is_awaited);
        self.lives.news.notify_one();
        changed
    }

    /// Try to take a lease that is wanted. Gives whether it is held. By then this process has read whatever was appended
    /// under the lease before, so it knows what former holders did.
    pub async fn take_lease(&self, name: &str, token: &str) -> Result<bool, Failure> {
        let is_held = self.try_lease(name, token).await;
        if !matches!(is_held, Ok(true)) {
            self.leases.forget(name, token);
            return is_held;
        }
        self.until_read_up().await.map_err(|why| {
            let text = format!("the lease of {} is of no use yet: {why}", self.store.place());
            Failure::Refused(text.into())
        })?;
        is_held
    }

    /// Wait until this process has read all that is in the log now.
    async fn until_read_up(&self) -> Result<(), String> {
        let last = self.store.log().last().await.map_err(|error| error.text)?;
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|at| *at >= last);
        let is_reached = matches!(tokio::time::timeout(LEASE, reached).await, Ok(Ok(_)));
        if is_reached {
            Ok(())
        } else {
            Err(format!("this process has not read the log up to its end within {LEASE:?}"))
        }
    }

    /// Take a lease once it is free. Gives false when it is no longer wanted.
    pub async fn await_lease(&self, name: &str, token: &str, changed: &Notify) -> Result<bool, Failure> {
        while self.leases.is_wanted(name, token) {
            match self.try_lease(name, token).await {
                Ok(false) => {}
                is_held => {
                    if is_held.is_err() {
                        self.leases.forget(name, token);
                    }
                    return is_held;
                }
            }
            // Only time shows that the holder has died.
            let _ = tokio::time::timeout(EVERY, changed.notified()).await;
        }
        Ok(false)
    }

    async fn try_lease(&self, name: &str, token: &str) -> Result<bool, Failure> {
        let until = Instant::now() + LEASE;
        match self.store.lease(name, token, LEASE).await {
            Ok(true) if self.leases.won(name, token, until) => Ok(true),
            Ok(true) => {
                let _ = self.store.release(name, token).await;
                if self.leases.is_wanted(name, token) {
                    let text =
                        format!("{} gave a lease of {LEASE:?} when it had run out", self.store.place());
                    return Err(Failure::Refused(text.into()));
                }
                // It was given up while the store was asked.
                Ok(false)
            }
            Ok(false) => Ok(false),
            Err(error) => {
                let text = format!("{} gave no lease: {error}", self.store.place());
                Err(Failure::Refused(text.into()))
            }
        }
    }

    /// Give a lease up. Returns what must be released in the store, if the log does not do that.
    pub fn release(&self, name: &str, token: &str) -> bool {
        let Some(forgotten) = self.leases.forget(name, token).filter(|lease| lease.was_held) else {
            return false;
        };
        let lease: Arc<str> = name.into();
        let letter = Letter::Release { lease: lease.clone() };
        let fence = Fence::Held { lease, token: token.into() };
        let posted = forgotten.is_awaited.then(|| self.outbox.post(letter, Some(fence), self.backlog_bytes));
        match posted {
            Some(Ok(outcome)) => {
                // If the log does not take it, the lease runs out.
                outcome.ignore();
                false
            }
            Some(Err(_)) | None => true,
        }
    }

    /// Wait until a lease is no longer held: it was released, was given to another process, or has run out.
    pub async fn until_lost(&self, name: &str, token: &str) {
        while let Some((until, changed)) = self.leases.held_until(name, token) {
            let _ = tokio::time::timeout_at(until.into(), changed.notified()).await;
        }
    }

    async fn renew_leases(&self) {
        for (name, token) in self.leases.all() {
            let until = Instant::now() + LEASE;
            match self.store.lease(&name, &token, LEASE).await {
                Ok(true) if self.leases.won(&name, &token, until) => {}
                // It was released while the store was asked, or had run out, and has just been taken again.
                Ok(true) => {
                    self.leases.forget(&name, &token);
                    let _ = self.store.release(&name, &token).await;
                }
                Ok(false) => drop(self.leases.forget(&name, &token)),
                // It may still be held; if not, the log refuses what needs it.
                Err(_) => {}
            }
        }
    }
}
