//! `async for` over a subscription. It notices when an exception leaves the loop.
//!
//! A consumer whose client left is cancelled, and the stream has to end then. Dropping the subscription would
//! end it, but the exception's traceback keeps the consumer's frames, and in Starlette and anyio that is a
//! reference cycle: the subscription would stay until a garbage collection. The iterator of an `async for`
//! is in no frame's variables: it is dropped at the very moment the loop is left, with the exception
//! still set.
//!
//! ```text
//! loop left by an exception -- read again, by whichever way ------------------> open
//!     |-- the task that read it has ended, and 0.1 s later nobody reads ------> closed
//!     '-- the subscription is dropped ----------------------------------------> closed
//! ```
//!
//! So `asyncio.timeout` around a loop or around `anext` ends nothing, as long as the task goes on or another
//! one reads. A generator that is closed (GeneratorExit) says nothing about the task that closed it: it drops
//! its variables, and the subscription with them.

use std::sync::Arc;

use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyGeneratorExit, PyOSError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use super::next::Next;
use super::reading::Left;
use super::stream::Stream;
use crate::py::values::exceptions::while_dropping;

/// Seconds that another task has to read on after one that left a loop has ended: `asyncio.wait_for` runs its
/// argument in a task of its own on Python 3.11, and the stream must outlive its timeout.
const TO_READ_ON: f64 = 0.1;

/// What `Subscription.__aiter__` returns.
#[pyclass(frozen, module = "sse_hub._core")]
pub struct Iteration {
    subscription: Py<PyAny>,
    stream: Arc<Stream>,
}

impl Iteration {
    pub fn new(subscription: Py<PyAny>, stream: Arc<Stream>) -> Self {
        stream.reading.begin_loop();
        Self { subscription, stream }
    }
}

#[pymethods]
impl Iteration {
    fn __aiter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.subscription)
    }

    fn __anext__(&self, py: Python<'_>) -> Next {
        Next::new(self.subscription.clone_ref(py), self.stream.clone())
    }
}

impl Drop for Iteration {
    fn drop(&mut self) {
        self.stream.reading.end_loop();
        if self.stream.is_open() {
            let _ = Python::try_attach(|py| left_by_exception(py, &self.stream));
        }
    }
}

/// Remember that a loop was left, and check again when the task that left it has ended.
fn left_by_exception(py: Python<'_>, stream: &Arc<Stream>) {
    let Some(error) = PyErr::take(py) else { return };
    let is_closed = error.is_instance_of::<PyGeneratorExit>(py);
    let is_gone =
        is_closed || error.is_instance_of::<CancelledError>(py) || error.is_instance_of::<PyOSError>(py);
    error.restore(py);
    stream.reading.leave(if is_gone { Left::ClientGone } else { Left::Failed });
    if is_closed {
        return;
    }
    while_dropping(|py| {
        // Outside a task, and in one that asyncio does not know, nothing says when the consumer has ended.
        let asyncio = py.import(intern!(py, "asyncio"))?;
        let task = asyncio.call_method0(intern!(py, "current_task"))?;
        if !task.is_none() {
            task.call_method1(intern!(py, "add_done_callback"), (Abandoned(stream.clone()),))?;
        }
        Ok(())
    });
}

/// Called when a task that left a loop has ended, and again after another task has had time to read on: closes the
/// stream if no task reads it.
#[pyclass(frozen, module = "sse_hub._core")]
struct Abandoned(Arc<Stream>);

#[pymethods]
impl Abandoned {
    #[pyo3(signature = (task=None))]
    fn __call__(slf: &Bound<'_, Self>, task: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let stream = &slf.get().0;
        if !(stream.is_open() && stream.reading.is_left()) {
            return Ok(());
        }
        if let Some(task) = task {
            let event_loop = task.call_method0(intern!(py, "get_loop"))?;
            return event_loop.call_method1(intern!(py, "call_later"), (TO_READ_ON, slf)).map(drop);
        }
        if stream.is_read(py)? {
            return Ok(());
        }
        stream.end(py, &stream.reading.reason())
    }
}
