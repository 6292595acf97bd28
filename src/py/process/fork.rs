//! How a forked child learns that it is one. What it inherited may be locked forever (the thread that held
//! the lock does not exist in the child), so everything that locks first checks whether it is still in the
//! process it was made in.

use std::mem;
use std::sync::Arc;
#[cfg(unix)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;
#[cfg(unix)]
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

#[cfg(unix)]
use crate::descriptors;

/// Counts forks. Relaxed: the only writer is a forked child that still has a single thread, and `fork` itself orders
/// its store before whatever that thread does or starts.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// What a forked child does first. Only async-signal-safe work is allowed there: atomic
/// operations and `close(2)`.
#[cfg(unix)]
static IN_CHILD: OnceLock<&'static [fn()]> = OnceLock::new();

#[cfg(unix)]
extern "C" fn before() {
    descriptors::before_fork();
}

#[cfg(unix)]
extern "C" fn in_parent() {
    descriptors::after_fork();
}

/// The process in which an object was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u64);

impl Process {
    /// The current process.
    pub fn current() -> Self {
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether it is the current process. If not, this is a forked child, and locks of the object must not be taken.
    pub fn is_current(self) -> bool {
        self == Self::current()
    }
}

#[cfg(unix)]
extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    descriptors::in_child();
    for act in IN_CHILD.get().copied().unwrap_or_default() {
        act();
    }
}

/// Watch for forks, once per process image; `hooks` run in each child.
#[cfg(unix)]
pub fn watch(hooks: &'static [fn()]) -> PyResult<()> {
    if IN_CHILD.set(hooks).is_err() {
        return Ok(());
    }
    // SAFETY: these functions have the C ABI and live as long as the process image; `in_child` does nothing but
    // atomic operations and close(2).
    let outcome = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    if outcome == 0 { Ok(()) } else { Err(PyOSError::new_err((outcome, "pthread_atfork failed"))) }
}

/// Windows has no fork.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere the system can refuse")]
pub fn watch(_: &'static [fn()]) -> PyResult<()> {
    Ok(())
}

/// A global that each process has for itself: a forked child begins with an empty one.
pub struct PerProcess<T>(ArcSwapOption<Own<T>>);

/// One process's value.
struct Own<T> {
    process: Process,
    value: Mutex<T>,
}

impl<T: Default> PerProcess<T> {
    pub const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// Act on this process's value.
    pub fn with<R>(&self, act: impl FnOnce(&Mutex<T>) -> R) -> R {
        let current = self.0.load_full();
        if let Some(own) = &current
            && own.process.is_current()
        {
            return act(&own.value);
        }
        let fresh = Arc::new(Own { process: Process::current(), value: Mutex::default() });
        let found = Guard::into_inner(self.0.compare_and_swap(&current, Some(fresh)));
        // The inherited value has threads that do not exist here. It is never dropped: that could wait for them.
        mem::forget((current, found));
        self.with(act)
    }
}
