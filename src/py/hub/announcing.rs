//! An event loop's reader reports the ends of streams to the application.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::loop_reader::LoopReader;
use super::reactors::Reactors;
use crate::identity::{CloseReason, Identity};
use crate::ids::SubscriberId;
use crate::py::process::exit;
use crate::py::values::end_reason::end_reason;

impl LoopReader {
    /// Report the end of a stream to the application, on the stream's loop.
    pub fn announce(slf: &Bound<'_, Self>, identity: &Arc<Identity>, reason: &CloseReason) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let _inside = exit::enter(py);
        let Some(event_loop) = this.event_loop(py) else { return Ok(()) };
        let mut outcome = Ok(());
        if let Some(on_close) = this.clients.take_on_close(identity) {
            let soon = intern!(py, "call_soon_threadsafe");
            outcome = event_loop.call_method1(soon, (on_close, end_reason(py, reason)?)).map(drop);
        }
        let told = this.application.ended(slf, &event_loop, identity, reason);
        unless_closed(py, outcome.and(told))
    }

    /// The same for a stream that was handed off on this loop.
    pub(super) fn announce_handed_off(
        &self,
        py: Python<'_>,
        identity: &Arc<Identity>,
        reason: &CloseReason,
    ) -> PyResult<()> {
        let Some(reactors) = self.reports.reactors() else { return Ok(()) };
        let Some(event_loop) = self.event_loop(py) else {
            drop(reactors.forget(identity.id));
            return Ok(());
        };
        let soon = intern!(py, "call_soon_threadsafe");
        let mut outcome = self.application.handed_off_ended(&reactors, &event_loop, identity, reason);
        // Not before the handle was made: `info` is found through it, on the loop's next turn.
        if let Some(on_end) = reactors.on_end(py, identity.id) {
            outcome = event_loop.call_method1(soon, (on_end, end_reason(py, reason)?)).map(drop);
        }
        let forget = Forget { reactors: reactors.clone(), id: identity.id };
        let told = outcome.and_then(|()| event_loop.call_method1(soon, (forget,)).map(drop));
        if told.is_err() {
            // The loop is closed: no callback can run.
            drop(reactors.forget(identity.id));
        }
        unless_closed(py, told)
    }
}

/// Ignore the error of a closed loop, on which no callback can run.
fn unless_closed(py: Python<'_>, outcome: PyResult<()>) -> PyResult<()> {
    match outcome {
        Err(error) if error.is_instance_of::<PyRuntimeError>(py) => Ok(()),
        outcome => outcome,
    }
}

/// Drops the application's objects of a handed-off stream, after its callbacks.
#[pyclass(frozen, module = "sse_hub._core")]
struct Forget {
    reactors: Arc<Reactors>,
    id: SubscriberId,
}

#[pymethods]
impl Forget {
    fn __call__(&self) {
        let client = self.reactors.forget(self.id);
        drop(client);
    }
}
