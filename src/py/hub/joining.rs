//! How clients come: to the loop that runs here, or to a reactor.

use pyo3::prelude::*;

use super::PyHub;
use super::generations::running_loop;
use super::reactors::HandedClient;
use super::subscription::PySubscription;
use crate::hub::Request;
use crate::py::process::{descriptors, exit};
use crate::py::values::exceptions::OrRaise;

impl PyHub {
    /// See `_subscribe`.
    pub(super) fn subscribe<'py>(
        slf: &Bound<'py, Self>,
        request: &Request,
        info: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PySubscription>> {
        let py = slf.py();
        let _inside = exit::enter(py);
        let (event_loop, is_here) = running_loop(py)?;
        let hub = Self::live(slf)?;
        let reader = Self::reader_for(slf, &hub, &event_loop, is_here)?;
        let identity = hub.subscribe(&reader.get().reader, request).or_raise(py)?;
        reader.get().adopt(&identity, info);
        PySubscription::owner(slf, &reader, identity)
    }

    /// See `_prepare_hand_over`.
    pub(super) fn prepare_hand_over(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let _inside = exit::enter(py);
        let (event_loop, is_here) = running_loop(py)?;
        let hub = slf.get().core();
        Self::reader_for(slf, &hub, &event_loop, is_here)?;
        slf.get().start_reactors(py, &hub).map(drop)
    }

    /// See `_hand_over`.
    pub(super) fn hand_over<'py>(
        slf: &Bound<'py, Self>,
        fd: i32,
        request: &Request,
        client: HandedClient,
    ) -> PyResult<Bound<'py, PySubscription>> {
        let py = slf.py();
        let _inside = exit::enter(py);
        let (event_loop, is_here) = running_loop(py)?;
        let hub = Self::live(slf)?;
        let home = Self::reader_for(slf, &hub, &event_loop, is_here)?.get().reports.clone();
        let reactors = slf.get().start_reactors(py, &hub)?;
        let reactor = reactors.pick();
        // The socket wakes its thread, once for both.
        let held = reactor.reader.bell.hold();
        let identity = hub.subscribe(&reactor.reader, request).or_raise(py)?;
        reactors.remember(&identity, home, client);
        if let Some(reason) = identity.closed.get() {
            // It ended on the reactor's thread before anybody could be told.
            reactors.report(&identity, reason);
        }
        reactor.adopt(descriptors::socket(fd), identity.clone());
        held.forget();
        Bound::new(py, PySubscription::on_reactor(slf, &reactors, reactor.reader.clone(), identity))
    }
}
