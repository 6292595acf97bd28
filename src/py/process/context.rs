//! `contextvars`: callbacks of an event loop run in a copy of the context in which they were registered.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// A context without variables, for what serves many requests: registered within one of them, it would keep that one's
/// variables, and run code of the application with them.
pub fn empty_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CONTEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CONTEXT.import(py, "contextvars", "Context")?.call0()
}
