//! Awaitables without a trip through the event loop where the value is there already.

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::subscription::{Poll, PySubscription};
use crate::sync::Mutex;

enum State {
    Ready(Py<PyBytes>),
    Ended,
    /// The future to wait for, not yet handed to the task.
    Waiting(Py<PyAny>),
    /// The task waits.
    Handed,
    Done,
}

/// What `Subscription.__anext__` returns. It takes from the queue when the task resumes, not when it is woken:
/// what came meanwhile goes along, and a cancelled wait loses nothing.
#[pyclass(frozen, module = "sse_hub._core")]
pub struct Next {
    subscription: Py<PySubscription>,
    state: Mutex<State>,
}

impl Next {
    pub fn new(py: Python<'_>, subscription: &Bound<'_, PySubscription>, poll: Poll) -> PyResult<Self> {
        let state = match poll {
            Poll::Ready(bytes) => State::Ready(bytes),
            Poll::Ended => State::Ended,
            Poll::Pending => State::Waiting(subscription.get().wait(py)?),
        };
        Ok(Self { subscription: subscription.clone().unbind(), state: Mutex::new(state) })
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
        let state = std::mem::replace(&mut *self.state.lock(), State::Done);
        match state {
            State::Ready(bytes) => Err(PyStopIteration::new_err((bytes,))),
            State::Ended => Err(PyStopAsyncIteration::new_err(())),
            State::Waiting(future) => self.hand(py, future),
            State::Handed => match self.subscription.get().poll(py) {
                Poll::Ready(bytes) => Err(PyStopIteration::new_err((bytes,))),
                Poll::Ended => Err(PyStopAsyncIteration::new_err(())),
                Poll::Pending => {
                    let future = self.subscription.get().wait(py)?;
                    self.hand(py, future)
                }
            },
            State::Done => Err(PyRuntimeError::new_err("cannot reuse already awaited __anext__()")),
        }
    }
}

impl Next {
    /// Give the future to the task that awaits: the protocol of `asyncio.Future.__await__`.
    fn hand(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<Py<PyAny>> {
        future.setattr(py, intern!(py, "_asyncio_future_blocking"), true)?;
        *self.state.lock() = State::Handed;
        Ok(future)
    }
}

/// An awaitable that has its value: for methods that are awaited but never wait.
#[pyclass(frozen, module = "sse_hub._core")]
pub struct Ready(pub Py<PyAny>);

#[pymethods]
impl Ready {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err((self.0.clone_ref(py),)))
    }
}
