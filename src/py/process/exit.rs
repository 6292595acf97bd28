//! The interpreter's end, while daemon threads still run loops and publish.
//!
//! Before Python 3.14, a thread that asks for the GIL while the interpreter ends is ended by unwinding its
//! stack. When that stack has Rust frames under the Python code that ran, the process aborts. So from then
//! on no other thread calls into Python from here: an `atexit` function closes the door, behind which threads
//! wait forever, as Python 3.14 makes them do, and waits for the threads inside.
//!
//! A child of `multiprocessing` ends without `atexit` (before Python 3.13 it is not run there, and what was
//! registered before the fork never is): there `multiprocessing` itself is asked to call [`_flush`].
//!
//! Work that must be finished before that is passed to [`watch`] as [`Steps`].

use std::cell::Cell;
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::thread::{park, sleep};
use std::time::{Duration, Instant};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::fork::PerProcess;

/// The longest time that the interpreter's end waits for threads that are inside.
const PATIENCE: Duration = Duration::from_secs(1);

/// When `multiprocessing` calls it: after its own finalizers, and after those registered without a priority.
const PRIORITY: i32 = -100;

/// What is called, in this order, each with the interpreter attached.
pub struct Steps {
    /// At the interpreter's end, while threads may still call Python: what was published is sent.
    pub at_end: &'static [fn(Python<'_>)],
    /// When a child of `multiprocessing` ends: the same, but others may still publish.
    pub at_flush: &'static [fn(Python<'_>)],
}

static STEPS: OnceLock<Steps> = OnceLock::new();

/// Whether the interpreter is ending, and how many threads are in Python code that was called from here.
///
/// A Dekker pair. A thread that enters adds itself to `INSIDE`, then reads `ENDING`; the thread that ends the
/// interpreter sets `ENDING`, then reads `INSIDE`. At least one of the two must see the other, or a thread for
/// which nobody waits slips in. That needs each one's write to come before its own read in one order that both
/// agree on: `SeqCst`, for all four. Acquire and release would let each read pass the write before it.
static ENDING: AtomicBool = AtomicBool::new(false);
static INSIDE: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    /// Whether this thread ends the interpreter: it always gets the GIL back.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// A thread is in Python code that was called from here.
pub struct Inside(());

impl Drop for Inside {
    fn drop(&mut self) {
        // Release: a thread that reads the lower number with `SeqCst`, which acquires, sees all that was done inside.
        INSIDE.fetch_sub(1, Ordering::Release);
    }
}

/// Call this before calling Python code. Does not return when the interpreter is ending and this is another thread.
pub fn enter(py: Python<'_>) -> Inside {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let inside = Inside(());
    if ENDING.load(Ordering::SeqCst) && !ENDS.get() {
        drop(inside);
        py.detach(|| {
            loop {
                park();
            }
        })
    } else {
        inside
    }
}

/// Whether the interpreter is ending. Only a hint, as it may begin to end right afterwards, so relaxed.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// A forked child has none of the other threads. Relaxed: it has one thread, which runs this.
#[cfg(unix)]
pub fn in_child() {
    INSIDE.store(0, Ordering::Relaxed);
}

/// Finish everything that can be finished; from then on, no other thread calls Python code.
#[pyfunction]
pub fn _end(py: Python<'_>) {
    ENDS.set(true);
    for step in STEPS.get().map(|steps| steps.at_end).unwrap_or_default() {
        step(py);
    }
    ENDING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let deadline = Instant::now() + PATIENCE;
        while INSIDE.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
    });
}

/// Send what was published so far, for a process that may end without [`_end`].
#[pyfunction]
pub fn _flush(py: Python<'_>) {
    for step in STEPS.get().map(|steps| steps.at_flush).unwrap_or_default() {
        step(py);
    }
}

/// Arrange a call of `_flush` at this process's end, if it is a child of `multiprocessing`. For callers that are about
/// to publish something that takes time.
pub fn watch_child(py: Python<'_>) -> PyResult<()> {
    static WATCHED: PerProcess<bool> = PerProcess::new();
    // Only such a child has imported all of it.
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    let Ok(process) = modules.get_item(intern!(py, "multiprocessing.process")) else { return Ok(()) };
    if process.call_method0(intern!(py, "parent_process"))?.is_none()
        || WATCHED.with(|watched| mem::replace(&mut *watched.lock(), true))
    {
        return Ok(());
    }
    let flush = py.import(intern!(py, "sse_hub._core"))?.getattr(intern!(py, "_flush"))?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "exitpriority"), PRIORITY)?;
    let util = py.import(intern!(py, "multiprocessing.util"))?;
    util.call_method(intern!(py, "Finalize"), (py.None(), flush), Some(&options)).map(drop)
}

/// Arrange a call of `steps` at the interpreter's end.
pub fn watch(module: &Bound<'_, PyModule>, steps: Steps) -> PyResult<()> {
    // A module that is initialized again has the same steps.
    let _ = STEPS.set(steps);
    let py = module.py();
    let end = module.getattr(intern!(py, "_end"))?;
    py.import(intern!(py, "atexit"))?.call_method1(intern!(py, "register"), (end,)).map(drop)
}
