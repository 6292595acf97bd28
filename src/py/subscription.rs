//! `Subscription`: a native async iterator over one subscriber's bytes, and a handle to the subscriber.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::awaitable::{Next, Ready};
use super::convert::{Fields, Given, topics};
use super::exceptions::{OrRaise, while_dropping};
use super::fork;
use super::handed::Reactors;
use super::hub::PyHub;
use super::publication::PyPublication;
use super::reader::LoopReader;
use crate::hub::Hub;
use crate::reader::Reader;
use crate::subscriber::{CloseReason, Identity, Taken, Who};

/// What a consumer finds.
pub enum Poll {
    Ready(Py<PyBytes>),
    Pending,
    Ended,
}

/// One client's stream: an async iterator of bytes ready to be written, and a handle to the client.
///
/// Iterate it on the event loop it was made on, from one task at a time. Every other method may be called
/// from any thread. Dropping the one that `subscribe` returned ends the stream.
#[pyclass(frozen, name = "Subscription", module = "sse_hub._core", weakref)]
pub struct PySubscription {
    hub: Py<PyHub>,
    core: Arc<Hub>,
    reader: Arc<Reader>,
    place: Place,
    identity: Arc<Identity>,
    generation: u64,
    /// The application's own: kept here, so that a handle still has it when the subscriber is gone.
    info: Option<Py<PyAny>>,
    /// Whether the stream ends with this object: `get` and the callbacks give handles that do not.
    owner: bool,
}

/// Who delivers to a subscriber.
pub enum Place {
    Loop(Py<LoopReader>),
    Reactor(Arc<Reactors>),
}

impl PySubscription {
    /// The one that `subscribe` returns.
    pub fn owner<'py>(
        hub: &Bound<'py, PyHub>,
        reader: &Bound<'py, LoopReader>,
        identity: Arc<Identity>,
    ) -> PyResult<Bound<'py, Self>> {
        let mut this = Self::on_loop(hub, reader, identity);
        this.owner = true;
        Bound::new(hub.py(), this)
    }

    /// A handle to a subscriber of an event loop.
    pub fn on_loop(hub: &Bound<'_, PyHub>, reader: &Bound<'_, LoopReader>, identity: Arc<Identity>) -> Self {
        let found = reader.get();
        let info = found.info(hub.py(), &identity);
        Self {
            info,
            hub: hub.clone().unbind(),
            core: found.hub.clone(),
            reader: found.reader.clone(),
            place: Place::Loop(reader.clone().unbind()),
            identity,
            generation: fork::generation(),
            owner: false,
        }
    }

    /// A handle to a subscriber of a reactor.
    pub fn on_reactor(
        hub: &Bound<'_, PyHub>,
        reactors: &Arc<Reactors>,
        reader: Arc<Reader>,
        identity: Arc<Identity>,
    ) -> Self {
        Self {
            info: reactors.info(hub.py(), identity.id),
            hub: hub.clone().unbind(),
            core: reactors.hub.clone(),
            reader,
            place: Place::Reactor(reactors.clone()),
            identity,
            generation: fork::generation(),
            owner: false,
        }
    }

    /// Whether it was made in this process: if not, nothing of it may be locked.
    fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// The loop's reader, of one that can be iterated.
    fn loop_reader(&self) -> Option<&LoopReader> {
        match &self.place {
            Place::Loop(reader) => Some(reader.get()),
            Place::Reactor(_) => None,
        }
    }

    pub fn poll(&self, py: Python<'_>) -> Poll {
        let Some(place) = self.loop_reader().filter(|_| self.is_ours()) else { return Poll::Ended };
        let mut out = Vec::new();
        match self.core.take(&self.reader, &self.identity, &mut out) {
            Taken::Some => Poll::Ready(place.join(py, out)),
            Taken::Nothing => Poll::Pending,
            Taken::End => Poll::Ended,
        }
    }

    /// A future that is done when there is something.
    pub fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Some(reader) = self.loop_reader() else {
            return Err(PyRuntimeError::new_err("a handed-off stream cannot be iterated"));
        };
        if reader.has_waiter(py, &self.identity)? {
            return Err(PyRuntimeError::new_err("this subscription is iterated by another task already"));
        }
        reader.wait(py, &self.identity)
    }

    /// Let the consumer take what is left.
    fn resume(&self) {
        match &self.place {
            Place::Loop(reader) => reader.get().resume_soon(self.identity.key),
            Place::Reactor(reactors) => {
                if let Some(reactor) = reactors.find(self.identity.reader) {
                    reactor.resume(self.identity.key);
                }
            }
        }
    }

    fn announce(&self, py: Python<'_>, reason: &CloseReason) -> PyResult<()> {
        match &self.place {
            Place::Loop(reader) => LoopReader::announce(reader.bind(py), &self.identity, reason),
            Place::Reactor(reactors) => {
                reactors.report(&self.identity, reason);
                Ok(())
            }
        }
    }

    fn end(&self, py: Python<'_>, reason: &CloseReason) -> PyResult<()> {
        if !self.is_ours() {
            return Ok(());
        }
        if let Some(wake) = self.core.close(&self.reader, &self.identity, reason.clone()) {
            // A reactor looks at one that is busy writing, too: its client may never take the rest.
            if wake || matches!(self.place, Place::Reactor(_)) {
                self.resume();
            }
            self.announce(py, reason)?;
        }
        Ok(())
    }
}

impl Drop for PySubscription {
    fn drop(&mut self) {
        if !self.owner || !self.is_ours() {
            return;
        }
        if self.core.drop_subscriber(&self.reader, &self.identity, CloseReason::Closed) {
            while_dropping(|py| self.announce(py, &CloseReason::Closed));
        }
        if let Some(reader) = self.loop_reader() {
            reader.release(&self.identity);
        }
    }
}

#[pymethods]
impl PySubscription {
    /// The client's id: what `send` and `disconnect` take. Opaque and not to be guessed.
    #[getter]
    fn id(&self) -> &str {
        &self.identity.name
    }

    /// The names of its topics, sorted; those it had, once it is closed.
    #[getter]
    fn topics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let names = if self.is_ours() { self.core.topics_of(&self.identity) } else { Vec::new() };
        PyTuple::new(py, names.iter().map(|name| PyString::new(py, name)))
    }

    /// The user it was given, or None.
    #[getter]
    fn user(&self) -> Option<&str> {
        self.identity.user.as_deref()
    }

    /// The object the application gave, or None.
    #[getter]
    fn info(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.info.as_ref().map(|info| info.clone_ref(py))
    }

    /// True when the client resumed completely, False when it was told of a gap, None for a newcomer.
    #[getter]
    fn recovered(&self) -> Option<bool> {
        self.identity.recovered.get().copied().flatten()
    }

    /// Why the stream ended, or None while it has not.
    #[getter]
    fn closed(&self) -> Option<&str> {
        self.identity.closed.get().map(CloseReason::as_str)
    }

    /// How its bytes travel: "loop" (through the server) or "reactor" (handed off).
    #[getter]
    fn path(&self) -> &'static str {
        match self.place {
            Place::Loop(_) => "loop",
            Place::Reactor(_) => "reactor",
        }
    }

    /// Get these topics too, from the next event on.
    ///
    /// Returns False when the client is not there any more. Raises ValueError for a name that breaks a rule.
    #[pyo3(name = "join")]
    fn join_topics(&self, py: Python<'_>, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        let topics = self::topics(topics)?;
        if !self.is_ours() {
            return Ok(false);
        }
        self.core.join(self.identity.id, &topics).or_raise(py)
    }

    /// Do not get these topics any more, from the next event on.
    ///
    /// Returns False when the client is not there any more.
    #[pyo3(name = "leave")]
    fn leave_topics(&self, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        let topics = self::topics(topics)?;
        Ok(self.is_ours() && self.core.leave(self.identity.id, &topics))
    }

    /// Send an event to this client alone: in order with everything else, without an id, not replayed.
    #[pyo3(signature = (data=Given::Omitted, *, raw_data=None, event=None, retry=None, comment=None),
           text_signature = "($self, data=..., *, raw_data=None, event=None, retry=None, comment=None)")]
    fn send<'py>(
        &self,
        py: Python<'py>,
        data: Given<'py>,
        raw_data: Option<Bound<'py, PyAny>>,
        event: Option<Bound<'py, PyString>>,
        retry: Option<Bound<'py, PyAny>>,
        comment: Option<Bound<'py, PyString>>,
    ) -> PyResult<PyPublication> {
        let draft = Fields { data, raw_data, event, retry, comment }.draft(py)?;
        if self.is_ours() {
            self.core.send(Some(self.identity.id), draft).or_raise(py)?;
        }
        Ok(PyPublication(None))
    }

    /// End the stream: what is queued still goes out, unless the reason is "client".
    #[pyo3(signature = (reason="closed"))]
    fn close(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        let reason = match reason {
            "closed" => CloseReason::Closed,
            "client" => CloseReason::Client,
            "shutdown" => CloseReason::Shutdown,
            other => CloseReason::Kicked(other.into()),
        };
        self.end(py, &reason)
    }

    /// `close()`, to be awaited: what `contextlib.aclosing` and async generators' users expect.
    fn aclose(&self, py: Python<'_>) -> PyResult<Ready> {
        self.end(py, &CloseReason::Closed)?;
        Ok(Ready(py.None()))
    }

    /// Call `callback(reason)` on the subscription's loop when somebody else ends the stream. Private.
    fn _on_close(&self, callback: Option<Py<PyAny>>) {
        if let Some(reader) = self.loop_reader() {
            reader.set_on_close(&self.identity, callback);
        }
    }

    /// The initial events are complete. Private.
    fn _initial<'py>(&self, py: Python<'py>, events: Vec<Bound<'py, PyAny>>) -> PyResult<()> {
        let drafts: PyResult<Vec<_>> =
            events.into_iter().map(|event| Fields::only(event).draft(py)).collect();
        if self.is_ours() && self.core.initial(&self.reader, &self.identity, drafts?).or_raise(py)? {
            self.resume();
        }
        Ok(())
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __anext__(slf: Bound<'_, Self>) -> Next {
        Next::new(slf.unbind())
    }

    fn __aenter__(slf: Bound<'_, Self>) -> Ready {
        Ready(slf.into_any().unbind())
    }

    #[pyo3(signature = (kind=None, error=None, trace=None))]
    fn __aexit__(
        &self,
        py: Python<'_>,
        kind: Option<Bound<'_, PyAny>>,
        error: Option<Bound<'_, PyAny>>,
        trace: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Ready> {
        drop((kind, error, trace));
        self.end(py, &CloseReason::Closed)?;
        Ok(Ready(py.None()))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().identity.name == self.identity.name)
    }

    fn __hash__(&self) -> u64 {
        self.identity.id.0
    }

    fn __repr__(&self) -> String {
        let state = self.closed().map_or_else(|| "open".into(), |reason| format!("closed: {reason}"));
        format!("<Subscription {} ({state})>", self.identity.name)
    }

    /// Private: the event loop that delivers to it; None when it is gone.
    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.loop_reader().and_then(|reader| reader.event_loop(py))
    }

    #[getter]
    fn _hub(&self, py: Python<'_>) -> Py<PyHub> {
        self.hub.clone_ref(py)
    }
}

/// Who is meant by an id or a user.
pub fn who(hub: &PyHub, id: Option<&str>, user: Option<&str>) -> PyResult<Option<Who>> {
    match (id, user) {
        (Some(id), None) => Ok(hub.core().get(id).map(|found| Who::Id(found.id))),
        (None, Some(user)) => Ok(Some(Who::User(user.into()))),
        _ => Err(pyo3::exceptions::PyTypeError::new_err("disconnect needs id= or user=, one of them")),
    }
}
