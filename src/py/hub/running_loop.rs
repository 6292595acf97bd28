//! The event loop of the current thread.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

/// An event loop that can serve clients.
pub struct Home<'py> {
    pub event_loop: Bound<'py, PyAny>,
    /// Whether it runs in this thread; otherwise this is one of its worker threads.
    pub is_here: bool,
}

/// The loop that runs in this thread, or the loop of this worker thread.
pub fn running_loop(py: Python<'_>) -> PyResult<Home<'_>> {
    let asyncio = py.import(intern!(py, "asyncio"))?;
    match asyncio.call_method0(intern!(py, "get_running_loop")) {
        Ok(event_loop) => Ok(Home { event_loop, is_here: true }),
        Err(error) if error.is_instance_of::<PyRuntimeError>(py) => {
            // FastAPI runs `def` endpoints in a worker thread, which knows its loop.
            let from_thread = py.import(intern!(py, "anyio.from_thread"))?;
            let get = asyncio.getattr(intern!(py, "get_running_loop"))?;
            match from_thread.call_method1(intern!(py, "run_sync"), (get,)) {
                Ok(event_loop) => Ok(Home { event_loop, is_here: false }),
                Err(_) => Err(PyRuntimeError::new_err(
                    "subscribe() needs a running event loop: call it in async code, or in a worker thread of one",
                )),
            }
        }
        Err(error) => Err(error),
    }
}
