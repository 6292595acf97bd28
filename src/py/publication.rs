//! What `publish` returns.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::awaitable::Ready;
use crate::event::EventId;

/// The outcome of a publication.
///
/// Await it, or call `result()` in sync code, for the event's id (None for an event sent to one
/// subscriber, which carries no id). In a hub without a broker it is known at once, so neither waits.
#[pyclass(frozen, name = "Publication", module = "sse_hub._core")]
pub struct PyPublication(pub Option<EventId>);

impl PyPublication {
    fn text(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.0.map(|id| PyString::new(py, &id.to_string()).unbind())
    }
}

#[pymethods]
impl PyPublication {
    /// The event's id once it is known: opaque, never reused, what a browser sends back as `Last-Event-ID`.
    #[getter]
    fn id(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.text(py)
    }

    /// Whether the outcome is known.
    #[staticmethod]
    fn done() -> bool {
        true
    }

    /// The event's id, waiting for it at most `timeout` seconds (None: as long as it takes).
    #[pyo3(signature = (timeout=None))]
    fn result(&self, py: Python<'_>, timeout: Option<f64>) -> Option<Py<PyString>> {
        let _ = timeout;
        self.text(py)
    }

    fn __await__(&self, py: Python<'_>) -> PyResult<Ready> {
        Ok(Ready(self.text(py).into_pyobject(py)?.unbind()))
    }

    fn __repr__(&self) -> String {
        match self.0 {
            Some(id) => format!("<Publication id={id}>"),
            None => "<Publication to one subscriber>".into(),
        }
    }
}
