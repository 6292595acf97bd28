//! The core's errors as Python exceptions. The classes are Python's own, in `sse_hub.exceptions`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::Error;
use crate::outcome::Failure;
use crate::py::process::exit;

/// One of our exception classes.
fn class<'py>(py: Python<'py>, cell: &PyOnceLock<Py<PyType>>, name: &str) -> PyResult<Bound<'py, PyType>> {
    cell.import(py, "sse_hub.exceptions", name).cloned()
}

/// The exception of the class called `name`, with `message`.
fn make(py: Python<'_>, cell: &PyOnceLock<Py<PyType>>, name: &str, message: String) -> PyErr {
    match class(py, cell, name) {
        Ok(class) => PyErr::from_type(class, (message,)),
        Err(error) => error,
    }
}

/// A refused event.
pub fn invalid_event(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    make(py, &CLASS, "InvalidEvent", message)
}

/// The exception for an error of the core.
pub fn from_core(py: Python<'_>, error: &Error) -> PyErr {
    static TOO_LARGE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static FULL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static CLOSED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static ENDED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static NOT_AUTHORIZED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static USER_FULL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static TOO_MANY_TOPICS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = error.to_string();
    match error {
        Error::InvalidEvent(_) => invalid_event(py, message),
        Error::EventTooLarge { .. } => make(py, &TOO_LARGE, "EventTooLarge", message),
        Error::HubFull { .. } | Error::ReaderBehind { .. } | Error::TooManySubscribers { .. } => {
            make(py, &FULL, "HubFull", message)
        }
        Error::UserFull { .. } => make(py, &USER_FULL, "UserFull", message),
        Error::TooManyTopics { .. } => make(py, &TOO_MANY_TOPICS, "TooManyTopics", message),
        Error::TopicEnded { .. } => make(py, &ENDED, "TopicEnded", message),
        Error::Expired { .. } => make(py, &NOT_AUTHORIZED, "NotAuthorized", message),
        Error::HubClosed => make(py, &CLOSED, "HubClosed", message),
        Error::InvalidTopic(_) | Error::InvalidOption(_) => PyValueError::new_err(message),
    }
}

/// The end of a stream that cannot say what its client missed.
pub fn gap(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = "the client missed events that cannot be replayed, and its stream has control=False";
    make(py, &CLASS, "GapError", message.into())
}

/// The exception that says why a publication has no id.
pub fn from_failure(py: Python<'_>, failure: &Failure) -> PyErr {
    static REFUSED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static UNKNOWN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static ENDED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static FENCED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = failure.to_string();
    match failure {
        Failure::Ended(_) => make(py, &ENDED, "TopicEnded", message),
        Failure::Fenced => make(py, &FENCED, "LeaseLost", message),
        Failure::Refused(_) => make(py, &REFUSED, "BrokerError", message),
        Failure::Unknown(_) => make(py, &UNKNOWN, "OutcomeUnknown", message),
    }
}

/// Run Python from a `drop`, where an exception may be pending: it is preserved, and nothing runs while the
/// interpreter ends.
pub fn while_dropping(act: impl FnOnce(Python<'_>) -> PyResult<()>) {
    let _ = Python::try_attach(|py| {
        let _inside = exit::enter(py);
        let pending = PyErr::take(py);
        let _ = act(py);
        if let Some(pending) = pending {
            pending.restore(py);
        }
    });
}

/// For `?` on the core's results.
pub trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for crate::error::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| from_core(py, &error))
    }
}
