//! Awaitables without a trip through the event loop where the value is there already.

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::intern;
use pyo3::prelude::*;

use super::subscription::{Poll, PySubscription};
use crate::py::process::exit;
use crate::sync::Mutex;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// The task waits.
    Handed,
    Done,
}

/// What `Subscription.__anext__` returns. It takes from the queue when the task runs, not before: what came
/// meanwhile goes along, and one that is never awaited, or cancelled while it waits, loses nothing.
#[pyclass(frozen, module = "sse_hub._core")]
pub struct Next {
    subscription: Py<PySubscription>,
    state: Mutex<State>,
}

impl Next {
    pub fn new(subscription: Py<PySubscription>) -> Self {
        Self { subscription, state: Mutex::new(State::New) }
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
        let subscription = self.subscription.get();
        match subscription.poll(py) {
            Poll::Ready(bytes) => Err(PyStopIteration::new_err((bytes,))),
            Poll::Ended => Err(PyStopAsyncIteration::new_err(())),
            Poll::Pending => {
                let _inside = exit::enter(py);
                // The protocol of `asyncio.Future.__await__`.
                let future = subscription.wait(py)?;
                future.setattr(py, intern!(py, "_asyncio_future_blocking"), true)?;
                *self.state.lock() = State::Handed;
                Ok(future)
            }
        }
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
