//! Subscribing at the running loop or at a reactor.

use std::sync::Arc;

use pyo3::prelude::*;

use super::ends::Ends;
use super::generations::Generations;
use super::loop_reader::LoopReader;
use super::reactors::HandedClient;
use super::running_loop::{Home, running_loop};
use super::subscription::PySubscription;
use crate::error::Error;
use crate::hub::{Hub, Request};
use crate::identity::Identity;
use crate::py::process::{descriptors, exit};
use crate::py::values::exceptions::OrRaise;
use crate::reader::Reader;

/// A hub: its Python object, and its generations.
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
        let hub = self.generations.to_subscribe(py)?;
        let reader = self.reader(&hub, &home)?;
        let is_over = hub.has_everything(request);
        let (identity, waiting) = self.register(&hub, &reader.get().reader, request)?;
        if let Some(reader) = waiting {
            reader.bell.ring();
        }
        reader.get().clients.add(&identity);
        PySubscription::owner(self.hub, self.generations, &reader, identity, info, is_over)
    }

    /// Start everything that `hand_over` needs, on the running loop.
    pub fn prepare_hand_over(&self) -> PyResult<()> {
        let py = self.hub.py();
        let _inside = exit::enter(py);
        let home = running_loop(py)?;
        let hub = self.generations.hub();
        self.reader(&hub, &home)?;
        self.generations.start_reactors(py, &hub).map(drop)
    }

    /// Register a subscriber, and pass its client's socket to a reactor.
    pub fn hand_over(
        &self,
        fd: i32,
        request: &Request,
        client: HandedClient,
    ) -> PyResult<Bound<'py, PySubscription>> {
        let py = self.hub.py();
        let _inside = exit::enter(py);
        let home = running_loop(py)?;
        let hub = self.generations.to_subscribe(py)?;
        let reports = self.reader(&hub, &home)?.get().reports.clone();
        let reactors = self.generations.start_reactors(py, &hub)?;
        let reactor = reactors.pick();
        let turn = reactor.turn();
        let (identity, _) = self.register(&hub, &reactor.reader, request)?;
        reactors.remember(&identity, reports, client);
        if let Some(reason) = identity.closed.get() {
            // It ended on the reactor's thread before its loop was known.
            reactors.report(&identity, reason);
        }
        let socket = descriptors::socket(fd);
        // A replay is the thread's work: other requests need not wait for it.
        if request.begins_plain() {
            reactor.welcome(socket, &identity, turn);
        } else {
            reactor.adopt(socket, identity.clone());
        }
        let reader = reactor.reader.clone();
        Bound::new(py, PySubscription::on_reactor(self.hub, self.generations, &reactors, reader, identity))
    }

    fn register(
        &self,
        hub: &Arc<Hub>,
        reader: &Arc<Reader>,
        request: &Request,
    ) -> PyResult<(Arc<Identity>, Option<Arc<Reader>>)> {
        let py = self.hub.py();
        let registered = match hub.subscribe_silently(reader, request) {
            Err(Error::ReaderBehind { .. }) => {
                // The reader that is behind may belong to a closed loop.
                self.generations.forget_closed_loops(py);
                hub.subscribe_silently(reader, request)
            }
            registered => registered,
        };
        registered.or_raise(py)
    }

    fn reader(&self, hub: &Arc<Hub>, home: &Home<'py>) -> PyResult<Bound<'py, LoopReader>> {
        let application = || Ends::boxed(self.hub, self.generations);
        self.generations.reader_for(hub, &home.event_loop, home.is_here, application)
    }
}
