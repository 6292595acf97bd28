//! How a forked child learns that it is one. What it inherited may be locked for ever (the thread that held
//! the lock does not exist in the child), so everything that locks asks first whether it is still in the
//! process it was made in.

use std::mem;
use std::sync::Arc;
#[cfg(unix)]
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;
#[cfg(unix)]
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

#[cfg(unix)]
use crate::reactor::descriptors;

static GENERATION: AtomicU64 = AtomicU64::new(0);
#[cfg(unix)]
static WATCH: Once = Once::new();

/// Which process this is: the number changes in a forked child.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(unix)]
extern "C" fn in_child() {
    // Only async-signal-safe work is allowed here: atomic operations and close(2).
    GENERATION.fetch_add(1, Ordering::Relaxed);
    super::exit::in_child();
    // Clients' connections must not stay open in the child when the parent closes them. Closing a copy sends
    // nothing, and leaves the parent's epoll set as it is.
    descriptors::disown_all(|fd| {
        // SAFETY: the descriptor was a reactor's, whose thread does not exist in this process.
        unsafe { libc::close(fd) };
    });
}

/// Be told of forks, once per process image.
#[cfg(unix)]
pub fn watch() -> PyResult<()> {
    let mut outcome = 0;
    WATCH.call_once(|| {
        // SAFETY: `in_child` has the C ABI, lives as long as the process image, and does nothing but
        // atomic operations and close(2).
        outcome = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    if outcome == 0 { Ok(()) } else { Err(PyOSError::new_err((outcome, "pthread_atfork failed"))) }
}

/// Windows knows no fork.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere the system can refuse")]
pub fn watch() -> PyResult<()> {
    Ok(())
}

/// A global each process has its own of: a forked child begins with an empty one.
pub struct PerProcess<T>(ArcSwapOption<Own<T>>);

/// What a process made.
struct Own<T> {
    made: u64,
    value: Mutex<T>,
}

impl<T: Default> PerProcess<T> {
    pub const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// Act on this process's own.
    pub fn with<R>(&self, act: impl FnOnce(&Mutex<T>) -> R) -> R {
        let current = self.0.load_full();
        if let Some(own) = &current
            && own.made == generation()
        {
            return act(&own.value);
        }
        let fresh = Arc::new(Own { made: generation(), value: Mutex::default() });
        let found = Guard::into_inner(self.0.compare_and_swap(&current, Some(fresh)));
        // What was inherited has threads that do not exist here: never dropped, which could wait for them.
        mem::forget((current, found));
        self.with(act)
    }
}
