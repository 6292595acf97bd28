//! How clients come: to the loop that runs here, or to a reactor.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;

use super::ends::Ends;
use super::generations::Generations;
use super::loop_reader::LoopReader;
use super::reactors::HandedClient;
use super::subscription::PySubscription;
use crate::hub::{Hub, Request};
use crate::py::process::{descriptors, exit};
use crate::py::values::exceptions::OrRaise;

/// A hub that clients come to: its Python object, and what it stands for.
pub struct Door<'a, 'py> {
    pub hub: &'a Bound<'py, PyAny>,
    pub generations: &'a Arc<Generations>,
}

impl<'py> Door<'_, 'py> {
    /// Register a subscriber on the loop that runs here.
    pub fn subscribe(
        &self,
        request: &Request,
        info: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PySubscription>> {
        let py = self.hub.py();
        let _inside = exit::enter(py);
        let home = running_loop(py)?;
        let hub = self.generations.connected(py)?;
        let reader = self.reader(&hub, &home)?;
        let identity = hub.subscribe(&reader.get().reader, request).or_raise(py)?;
        reader.get().clients.add(&identity, info);
        Bound::new(py, PySubscription::owner(self.hub, self.generations, &reader, identity))
    }

    /// Start what `hand_over` needs, on the loop that runs here.
    pub fn prepare_hand_over(&self) -> PyResult<()> {
        let py = self.hub.py();
        let _inside = exit::enter(py);
        let home = running_loop(py)?;
        let hub = self.generations.hub();
        self.reader(&hub, &home)?;
        self.generations.start_reactors(py, &hub).map(drop)
    }

    /// Register a subscriber, and give its client's socket to a reactor.
    pub fn hand_over(
        &self,
        fd: i32,
        request: &Request,
        client: HandedClient,
    ) -> PyResult<Bound<'py, PySubscription>> {
        let py = self.hub.py();
        let _inside = exit::enter(py);
        let home = running_loop(py)?;
        let hub = self.generations.connected(py)?;
        let reports = self.reader(&hub, &home)?.get().reports.clone();
        let reactors = self.generations.start_reactors(py, &hub)?;
        let reactor = reactors.pick();
        // The socket wakes its thread, once for both.
        let held = reactor.reader.bell.hold();
        let identity = hub.subscribe(&reactor.reader, request).or_raise(py)?;
        reactors.remember(&identity, reports, client);
        if let Some(reason) = identity.closed.get() {
            // It ended on the reactor's thread before its loop was known.
            reactors.report(&identity, reason);
        }
        reactor.adopt(descriptors::socket(fd), identity.clone());
        held.forget();
        let reader = reactor.reader.clone();
        Bound::new(py, PySubscription::on_reactor(self.hub, self.generations, &reactors, reader, identity))
    }

    fn reader(&self, hub: &Arc<Hub>, home: &Home<'py>) -> PyResult<Bound<'py, LoopReader>> {
        let application = || Ends::boxed(self.hub, self.generations);
        self.generations.reader_for(hub, &home.event_loop, home.is_here, application)
    }
}

/// The event loop that clients are to come to.
struct Home<'py> {
    event_loop: Bound<'py, PyAny>,
    /// Whether it runs in this thread, and not the loop whose worker thread this is.
    is_here: bool,
}

fn running_loop(py: Python<'_>) -> PyResult<Home<'_>> {
    let asyncio = py.import(intern!(py, "asyncio"))?;
    match asyncio.call_method0(intern!(py, "get_running_loop")) {
        Ok(event_loop) => Ok(Home { event_loop, is_here: true }),
        Err(error) if error.is_instance_of::<PyRuntimeError>(py) => {
            // FastAPI runs `def` endpoints in a worker thread, which knows its loop.
            let from_thread = py.import(intern!(py, "anyio.from_thread"))?;
            let get = asyncio.getattr(intern!(py, "get_running_loop"))?;
            match from_thread.call_method1(intern!(py, "run_sync"), (get,)) {
                Ok(event_loop) => Ok(Home { event_loop, is_here: false }),
                Err(_) => Err(PyRuntimeError::new_err(
                    "subscribe() needs a running event loop: call it in async code, or in a worker thread of one",
                )),
            }
        }
        Err(error) => Err(error),
    }
}
