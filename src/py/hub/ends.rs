//! Reports streams that ended to the application: calls `_disconnected` of the hub's Python object, on the
//! stream's loop, with a handle to the subscriber.

use std::sync::{Arc, Weak};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::generations::Generations;
use super::loop_reader::{LoopReader, ReportEnds};
use super::reactors::Reactors;
use super::subscription::PySubscription;
use crate::identity::{CloseReason, Identity};
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
        let Some((hub, generations)) = self.hub(event_loop.py()) else { return Ok(()) };
        let handle = PySubscription::on_loop(&hub, &generations, reader, identity.clone());
        tell(&hub, event_loop, handle, reason)
    }

    fn handed_off_ended(
        &self,
        reactors: &Arc<Reactors>,
        event_loop: &Bound<'_, PyAny>,
        identity: &Arc<Identity>,
        reason: &CloseReason,
    ) -> PyResult<()> {
        let Some(reactor) = reactors.find(identity.reader) else { return Ok(()) };
        let Some((hub, generations)) = self.hub(event_loop.py()) else { return Ok(()) };
        let reader = reactor.reader.clone();
        let handle = PySubscription::on_reactor(&hub, &generations, reactors, reader, identity.clone());
        tell(&hub, event_loop, handle, reason)
    }
}

fn tell(
    hub: &Bound<'_, PyAny>,
    event_loop: &Bound<'_, PyAny>,
    handle: PySubscription,
    reason: &CloseReason,
) -> PyResult<()> {
    let py = hub.py();
    let hook = hub.getattr(intern!(py, "_disconnected"))?;
    let soon = intern!(py, "call_soon_threadsafe");
    event_loop.call_method1(soon, (hook, handle, end_reason(event_loop.py(), reason)?)).map(drop)
}
