//! Reports streams that ended to the application: calls `_disconnected` of the hub's Python object, on the
//! stream's loop, with a handle to the subscriber.

use std::sync::{Arc, Weak};

use pyo3::call::PyCallArgs;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::generations::Generations;
use super::loop_reader::{LoopReader, ReportEnds};
use super::reactors::Reactors;
use super::subscription::PySubscription;
use crate::identity::{CloseReason, Identity};
use crate::py::process::context::empty_context;
use crate::py::values::end_reason::end_reason;

/// The Python object of a hub. Weak: a loop does not keep alive the hubs whose readers it runs.
pub struct Ends {
    hub: Py<PyWeakrefReference>,
    generations: Weak<Generations>,
}

impl Ends {
    pub fn boxed(hub: &Bound<'_, PyAny>, generations: &Arc<Generations>) -> PyResult<Box<dyn ReportEnds>> {
        let hub = PyWeakrefReference::new(hub)?.unbind();
        Ok(Box::new(Self { hub, generations: Arc::downgrade(generations) }))
    }

    /// The hub, if its application wants reports of ends.
    fn hub<'py>(&self, py: Python<'py>) -> Option<(Bound<'py, PyAny>, Arc<Generations>)> {
        let generations = self.generations.upgrade().filter(|it| it.reports_disconnects())?;
        Some((self.hub.bind(py).upgrade()?, generations))
    }
}

impl ReportEnds for Ends {
    fn ended(
        &self,
        reader: &Bound<'_, LoopReader>,
        event_loop: &Bound<'_, PyAny>,
        identity: &Arc<Identity>,
        reason: &CloseReason,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let Some((hub, generations)) = self.hub(py) else { return Ok(()) };
        let handle = PySubscription::on_loop(&hub, &generations, reader, identity.clone());
        let hook = hub.getattr(intern!(py, "_disconnected"))?;
        soon(event_loop, (hook, handle, end_reason(py, reason)?))
    }

    fn handed_off_ended(
        &self,
        reactors: &Arc<Reactors>,
        event_loop: &Bound<'_, PyAny>,
        identity: &Arc<Identity>,
        reason: &CloseReason,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let Some(reactor) = reactors.find(identity.reader) else { return Ok(()) };
        let Some((hub, generations)) = self.hub(py) else { return Ok(()) };
        let reader = reactor.reader.clone();
        let handle = PySubscription::on_reactor(&hub, &generations, reactors, reader, identity.clone());
        let hook = hub.getattr(intern!(py, "_disconnected"))?;
        // Nothing is kept of the stream's request, and the context of another one would mislead.
        let run = empty_context(py)?.getattr(intern!(py, "run"))?;
        soon(event_loop, (run, hook, handle, end_reason(py, reason)?))
    }
}

fn soon<'py>(event_loop: &Bound<'py, PyAny>, call: impl PyCallArgs<'py>) -> PyResult<()> {
    event_loop.call_method1(intern!(event_loop.py(), "call_soon_threadsafe"), call).map(drop)
}
