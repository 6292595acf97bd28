//! What `Subscription.__anext__` returns. It takes from the queue when the task runs, not before: what was
//! published in between goes along, and one that is never awaited, or cancelled while it waits, loses nothing.
//! A value that is there already takes no trip through the event loop.

use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;

use super::stream::{Poll, Stream};
use crate::py::process::exit;
use crate::sync::Mutex;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// The task waits.
    Waiting,
    Done,
}

#[pyclass(frozen, module = "sse_hub._core")]
pub struct Next {
    /// Kept alive: the stream ends with it.
    _subscription: Py<PyAny>,
    stream: Arc<Stream>,
    state: Mutex<State>,
}

impl Next {
    pub fn new(subscription: Py<PyAny>, stream: Arc<Stream>) -> Self {
        Self { _subscription: subscription, stream, state: Mutex::new(State::New) }
    }
}

#[pymethods]
impl Next {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if std::mem::replace(&mut *self.state.lock(), State::Done) == State::Done {
            return Err(PyRuntimeError::new_err("cannot reuse already awaited __anext__()"));
        }
        match self.stream.poll(py) {
            Poll::Ready(bytes) => Err(PyStopIteration::new_err((bytes,))),
            Poll::Ended => Err(PyStopAsyncIteration::new_err(())),
            Poll::Pending => {
                let _inside = exit::enter(py);
                // The protocol of `asyncio.Future.__await__`.
                let future = self.stream.wait(py)?;
                future.setattr(py, intern!(py, "_asyncio_future_blocking"), true)?;
                *self.state.lock() = State::Waiting;
                Ok(future)
            }
        }
    }
}
