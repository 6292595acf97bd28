//! Warnings in a forked process, given once, where a hub without a broker cannot do what its program seems to
//! expect: without a broker a hub does not span the fork.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

use super::running_loop::running_loop;
use crate::hub::Hub;
use crate::py::process::log;
use crate::stats::Counters;
use crate::sync::Mutex;

/// What happened in the parent process before the fork.
#[derive(Clone, Copy)]
struct Before {
    published: u64,
    connected: u64,
}

/// Which warnings are due.
#[derive(Default)]
pub struct Inherited {
    before: Mutex<Option<Before>>,
    /// Whether publications are checked. Relaxed: a warning may come one publication late.
    watches: AtomicBool,
}

impl Inherited {
    /// This is a forked child: remember the counters of its parent's hub.
    pub fn note(&self, counters: &Counters) {
        let before = Before {
            published: counters.published.load(Ordering::Relaxed),
            connected: counters.connected.load(Ordering::Relaxed),
        };
        *self.before.lock() = Some(before);
        self.watches.store(true, Ordering::Relaxed);
    }

    /// A subscriber is registered in this process.
    pub fn subscribed(&self, py: Python<'_>, name: &str) {
        if self.watches.swap(false, Ordering::Relaxed) {
            let before = self.before.lock().take();
            warn_of_lost(py, name, before);
        }
    }

    /// An event was published in this process.
    pub fn published(&self, py: Python<'_>, name: &str, hub: &Hub) {
        if !self.watches.load(Ordering::Relaxed) {
            return;
        }
        let before = self.before.lock().take();
        warn_of_lost(py, name, before);
        if hub.counters.connected.load(Ordering::Relaxed) > 0 {
            self.watches.store(false, Ordering::Relaxed);
            return;
        }
        // A process with an event loop serves, or is about to. Its parent does if it had clients before.
        let parent_serves = before.is_some_and(|before| before.connected > 0);
        if self.watches.swap(false, Ordering::Relaxed) && (parent_serves || running_loop(py).is_err()) {
            let message = "published in a forked process without subscribers. Without a broker an \
                event reaches the subscribers of its own process only: publish in the process that serves the \
                clients, or give the hub a broker, as Hub(\"file:events\")";
            warn(py, name, message);
        }
    }
}

/// Warn of events that reached no subscriber of this process.
fn warn_of_lost(py: Python<'_>, name: &str, before: Option<Before>) {
    let Some(Before { published: lost @ 1.., connected: 0 }) = before else { return };
    let message = format!(
        "{lost} events were published before this process was forked, as at import under gunicorn --preload. \
         They stayed in the parent process, and no subscriber of this one gets them: publish in a lifespan or \
         startup handler, or give the hub a broker, as Hub(\"file:events\")"
    );
    warn(py, name, &message);
}

/// A logging handler of the application that fails must not make the publication fail.
fn warn(py: Python<'_>, name: &str, message: &str) {
    if let Err(error) = log::warn(py, name, message) {
        error.write_unraisable(py, None);
    }
}
