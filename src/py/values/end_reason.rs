//! Reasons of an end, as Python has them: `sse_hub.EndReason`, a `str` with a kind.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::identity::CloseReason;

/// The `EndReason` of an end.
pub fn end_reason<'py>(py: Python<'py>, reason: &CloseReason) -> PyResult<Bound<'py, PyAny>> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MAKE.import(py, "sse_hub._ends", "end_reason")?.call1((reason.as_str(), reason.kind()))
}

/// The end that a response observes itself, from its `EndKind`.
pub fn end_of_kind(kind: &str) -> PyResult<CloseReason> {
    let seen = [
        CloseReason::Client,
        CloseReason::CLOSED,
        CloseReason::Shutdown,
        CloseReason::Revoked,
        CloseReason::Failed,
        CloseReason::Gap,
        CloseReason::Ended,
    ];
    let found = seen.into_iter().find(|reason| reason.kind() == kind);
    found.ok_or_else(|| PyValueError::new_err(format!("no response ends a stream by {kind:?}")))
}
