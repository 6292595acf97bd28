//! The leases that this process holds or wants.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The store was asked, or its holder is waited for.
    Wanted,
    /// Until then by this process's clock, counted from before the store was asked.
    Held(Instant),
}

#[derive(Clone)]
struct Lease {
    token: Arc<str>,
    state: State,
    /// Other processes may wait for it.
    is_awaited: bool,
    /// Notified when it may be free, and when it is no longer wanted.
    changed: Arc<Notify>,
}

impl Lease {
    /// Until when it is held unless it is renewed; `None` when it is not held.
    fn held_until(&self) -> Option<Instant> {
        match self.state {
            State::Held(until) if Instant::now() < until => Some(until),
            State::Held(_) | State::Wanted => None,
        }
    }
}

/// A lease that was given up.
pub struct Forgotten {
    /// Whether it was held, and had not run out.
    pub was_held: bool,
    /// Whether other processes may wait for it.
    pub is_awaited: bool,
}

/// The leases that this process holds or wants, by name.
#[derive(Default)]
pub struct Leases(Mutex<FxHashMap<Arc<str>, Vec<Lease>>>);

impl Leases {
    fn with<T>(&self, name: &str, token: &str, act: impl FnOnce(&mut Lease) -> T) -> Option<T> {
        let mut leases = self.0.lock();
        leases.get_mut(name)?.iter_mut().find(|lease| *lease.token == *token).map(act)
    }

    /// Note that a lease is wanted, unless it is held. What is returned is notified when it may be free, and when it is
    /// no longer wanted.
    pub fn want(&self, name: Arc<str>, token: Arc<str>, is_awaited: bool) -> Arc<Notify> {
        if let Some(changed) = self.with(&name, &token, |lease| lease.changed.clone()) {
            return changed;
        }
        let lease = Lease { token, state: State::Wanted, is_awaited, changed: Arc::default() };
        let changed = lease.changed.clone();
        self.0.lock().entry(name).or_default().push(lease);
        changed
    }

    /// Whether no lease is wanted or held.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Whether it is wanted or held.
    pub fn is_wanted(&self, name: &str, token: &str) -> bool {
        self.with(name, token, |_| ()).is_some()
    }

    /// The store gave the lease, or renewed it. False when it is no longer wanted, when it has run out by now, and when it
    /// had run out before, so that what was done under it has ended.
    pub fn won(&self, name: &str, token: &str, until: Instant) -> bool {
        let won = |lease: &mut Lease| {
            let is_held = lease.state == State::Wanted || lease.held_until().is_some();
            let is_in_time = is_held && Instant::now() < until;
            if is_in_time {
                lease.state = State::Held(until);
            }
            is_in_time
        };
        self.with(name, token, won) == Some(true)
    }

    pub fn holds(&self, name: &str, token: &str) -> bool {
        self.with(name, token, |lease| lease.held_until().is_some()) == Some(true)
    }

    /// Until when a lease is held unless it is renewed, and what is notified when it is given up before; `None` when it
    /// is not held.
    pub fn held_until(&self, name: &str, token: &str) -> Option<(Instant, Arc<Notify>)> {
        let held = |lease: &mut Lease| Some((lease.held_until()?, lease.changed.clone()));
        self.with(name, token, held).flatten()
    }

    /// Neither hold nor want a lease; `None` when that was so already.
    pub fn forget(&self, name: &str, token: &str) -> Option<Forgotten> {
        let mut leases = self.0.lock();
        let of_name = leases.get_mut(name)?;
        let lease = of_name.swap_remove(of_name.iter().position(|lease| *lease.token == *token)?);
        if of_name.is_empty() {
            leases.remove(name);
        }
        drop(leases);
        lease.changed.notify_one();
        Some(Forgotten { was_held: lease.held_until().is_some(), is_awaited: lease.is_awaited })
    }

    /// The holder of a lease, in any process, has released it.
    pub fn freed(&self, name: &str) {
        for lease in self.0.lock().get(name).into_iter().flatten() {
            if lease.state == State::Wanted {
                lease.changed.notify_one();
            }
        }
    }

    /// The names and tokens of the leases that are held.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let leases = self.0.lock();
        let all = leases.iter().flat_map(|(name, leases)| leases.iter().map(move |lease| (name, lease)));
        let held = all.filter(|(_, lease)| lease.state != State::Wanted);
        held.map(|(name, lease)| (name.clone(), lease.token.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lease_that_has_run_out_is_not_renewed() {
        let leases = Leases::default();
        let later = Instant::now() + Duration::from_secs(3600);
        leases.want("l".into(), "t".into(), false);
        assert!(leases.won("l", "t", later) && leases.won("l", "t", later));
        // A pause, or an outage of the store: whoever waits for the loss may have learned of it.
        leases.with("l", "t", |lease| lease.state = State::Held(Instant::now()));
        assert!(!leases.won("l", "t", later) && !leases.holds("l", "t"));
    }

    #[test]
    fn a_lease_that_came_too_late_is_not_held() {
        let leases = Leases::default();
        leases.want("l".into(), "t".into(), false);
        assert!(!leases.won("l", "t", Instant::now()) && !leases.holds("l", "t"));
        assert!(leases.is_wanted("l", "t"));
    }
}
