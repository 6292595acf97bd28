//! The end of the interpreter, while daemon threads still run loops and publish.
//!
//! Before Python 3.14, a thread that wants the GIL back once the interpreter ends is ended by unwinding its
//! stack. When that stack has frames of Rust under the Python code that ran, the process aborts. So from then
//! on no other thread calls into Python from here: an `atexit` function closes the door, behind which threads
//! stay for ever, as Python 3.14 has them do, and waits for those inside.
//!
//! A child of `multiprocessing` ends without that (before Python 3.13 `atexit` is not run there, and what was
//! registered before the fork never is): there `multiprocessing` itself is asked to have everything sent.

use std::cell::Cell;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::thread::{park, sleep};
use std::time::{Duration, Instant};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::fork::PerProcess;

/// The longest the interpreter's end waits for threads that are inside.
const PATIENCE: Duration = Duration::from_secs(1);

/// When `multiprocessing` calls it: after what is its own, and after those who gave no thought to the order.
const PRIORITY: i32 = -100;

static ENDING: AtomicBool = AtomicBool::new(false);
static INSIDE: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    /// Whether this is the thread that ends the interpreter: it always gets the GIL back.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// A thread's stay in Python code that is called from here.
pub struct Inside(());

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Before Python code is called. Does not return when the interpreter ends and this is a daemon thread.
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

/// Whether the interpreter ends.
pub fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// A forked child has none of the other threads.
#[cfg(unix)]
pub fn in_child() {
    INSIDE.store(0, Ordering::SeqCst);
}

/// Private: no other thread calls Python code any more.
#[pyfunction]
pub fn _end(py: Python<'_>) {
    ENDS.set(true);
    crate::py::brokers::redis::end(py);
    super::awaiting::end(py);
    ENDING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let deadline = Instant::now() + PATIENCE;
        while INSIDE.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
    });
}

/// Private: what was published until now is sent, for others may still publish.
#[pyfunction]
pub fn _flush(py: Python<'_>) {
    crate::py::brokers::redis::flush(py);
    // What the log has to say of it is said.
    super::awaiting::end(py);
}

/// Be told of this process's end, should it be a child of `multiprocessing`. Called before something is published.
pub fn watch_child(py: Python<'_>) -> PyResult<()> {
    static WATCHED: PerProcess<bool> = PerProcess::new();
    // Only who is such a child has imported all of it.
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

/// Be told of the interpreter's end.
pub fn watch(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let end = module.getattr(intern!(py, "_end"))?;
    py.import(intern!(py, "atexit"))?.call_method1(intern!(py, "register"), (end,)).map(drop)
}
