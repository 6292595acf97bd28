//! The result of `Subscription.__anext__`. It takes entries when the task runs, not before: events that were
//! published in between are included, and a result that is never awaited, or cancelled while it waits, loses nothing.
//! A value that waits already takes no trip through the event loop.

use std::sync::Arc;

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use super::loop_clients::Wait;
use super::stream::{Poll, Stream};
use crate::py::process::exit;
use crate::py::values::exceptions::gap;
use crate::sync::Mutex;

#[derive(Clone, Copy)]
enum State {
    New,
    /// The task waits: the turn is its own.
    Waiting(Wait),
    Done,
}

#[pyclass(frozen, module = "sse_hub._core")]
pub struct Next {
    /// Kept alive: the stream ends with it.
    subscription: Py<PyAny>,
    stream: Arc<Stream>,
    state: Mutex<State>,
}

impl Next {
    pub fn new(subscription: Py<PyAny>, stream: Arc<Stream>) -> Self {
        Self { subscription, stream, state: Mutex::new(State::New) }
    }

    /// Take the state, and leave `Done` in its place.
    fn finish(&self) -> State {
        std::mem::replace(&mut *self.state.lock(), State::Done)
    }

    /// Let other tasks read the stream.
    fn give_up(&self) {
        if let State::Waiting(wait) = self.finish() {
            self.stream.end_wait(wait);
        }
    }
}

impl Drop for Next {
    fn drop(&mut self) {
        self.give_up();
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
        let last = match self.finish() {
            State::New => self.stream.check_turn(py)?,
            State::Waiting(wait) => {
                let go_on = || *self.state.lock() = State::Waiting(wait);
                self.stream.take_turn(py, wait).inspect_err(|_| go_on())?;
                wait
            }
            State::Done => return Err(PyRuntimeError::new_err("cannot reuse already awaited __anext__()")),
        };
        match self.stream.poll(py) {
            Poll::Ready(bytes) => Err(PyStopIteration::new_err((bytes,))),
            Poll::Ended => Err(PyStopAsyncIteration::new_err(())),
            Poll::Broken => Err(gap(py)),
            Poll::Pending => {
                let _inside = exit::enter(py);
                let (future, wait) = self.stream.wait(py, last)?;
                *self.state.lock() = State::Waiting(wait);
                // The protocol of `asyncio.Future.__await__`.
                future.setattr(py, intern!(py, "_asyncio_future_blocking"), true)?;
                Ok(future)
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.subscription)
    }

    /// The task is cancelled where it waits; the exception goes on.
    #[pyo3(signature = (kind, value=None, trace=None))]
    fn throw(
        &self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        trace: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        drop(trace);
        self.give_up();
        Err(PyErr::from_value(value.filter(|value| !value.is_none()).unwrap_or(kind)))
    }

    /// The coroutine that waits is closed.
    fn close(&self) {
        self.give_up();
    }
}
