//! `Subscription`: a native async iterator over one subscriber's bytes, and a handle to the subscriber.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::PyHub;
use super::awaitable::{Next, Ready};
use super::loop_reader::LoopReader;
use super::publication::PyPublication;
use super::reactors::{HandedClient, Reactors};
use crate::broker::letter::{Letter, To};
use crate::change::Who;
use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::ids::GroupId;
use crate::outcome::Waiting;
use crate::py::process::awaiting;
use crate::py::process::{descriptors, exit, fork};
use crate::py::values::convert::{Fields, Given, topics};
use crate::py::values::exceptions::{OrRaise, while_dropping};
use crate::reader::Reader;
use crate::subscriber::Taken;

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

    /// Who it is now: a subscription that was handed off goes on at a reactor.
    fn now(&self) -> &Arc<Identity> {
        self.identity.current()
    }

    fn is_moved(&self) -> bool {
        self.identity.moved.get().is_some()
    }

    /// The loop's reader, of one that can be iterated.
    fn loop_reader(&self) -> Option<&LoopReader> {
        match &self.place {
            Place::Loop(reader) if !self.is_moved() => Some(reader.get()),
            Place::Loop(_) | Place::Reactor(_) => None,
        }
    }

    /// The reactors, of one that they deliver to; none once they have ended.
    fn reactors(&self) -> Option<Arc<Reactors>> {
        match &self.place {
            Place::Reactor(reactors) => Some(reactors.clone()),
            Place::Loop(_) if self.is_moved() => self.hub.get().reactors_of(&self.core),
            Place::Loop(_) => None,
        }
    }

    pub fn poll(&self, py: Python<'_>) -> Poll {
        let Some(place) = self.loop_reader().filter(|_| self.is_ours()) else { return Poll::Ended };
        let mut out = Vec::new();
        match self.core.take(&self.reader, &self.identity, &mut out) {
            Taken::Some | Taken::Last => Poll::Ready(place.join(py, out)),
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

    fn end(&self, py: Python<'_>, reason: &CloseReason) -> PyResult<()> {
        if !self.is_ours() {
            return Ok(());
        }
        if let Place::Loop(place) = &self.place
            && !self.is_moved()
            && let Some(wake) = self.core.close(&self.reader, &self.identity, reason.clone())
        {
            if wake {
                place.get().resume_soon(self.identity.key);
            }
            return LoopReader::announce(place.bind(py), &self.identity, reason);
        }
        // At a reactor, perhaps since this moment; or closed before.
        let (Some(reactors), identity) = (self.reactors(), self.now()) else { return Ok(()) };
        if let Some(reactor) = reactors.find(identity.reader)
            && self.core.close(&reactor.reader, identity, reason.clone()).is_some()
        {
            // Also one that is busy writing is looked at: its client may never take the rest.
            reactor.resume(identity.key);
            reactors.report(identity, reason);
        }
        Ok(())
    }

    /// Give the client's socket, and the subscriber with it, to a reactor; see `_hand_over`.
    fn move_to_reactor(
        slf: &Bound<'_, Self>,
        fd: i32,
        group: GroupId,
        on_end: Option<Py<PyAny>>,
    ) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let Some(place) = this.loop_reader().filter(|_| this.is_ours()) else { return Ok(false) };
        let reactors = this.hub.get().start_reactors(py, &this.core)?;
        let reactor = reactors.pick();
        let info = this.info(py);
        // The socket wakes its thread, once for both.
        let held = reactor.reader.bell.hold();
        // Before the move: from then on its end may be reported at any moment.
        reactors.remember(&this.identity, place.reports.clone(), HandedClient { info, on_end });
        let Some(identity) = this.core.hand_to(&this.reader, &reactor.reader, &this.identity, group) else {
            drop(reactors.forget(this.identity.id));
            return Ok(false);
        };
        place.release(&this.identity);
        if let Some(reason) = this.identity.closed.get() {
            // `on_disconnect` was told when that happened; `on_end` was not known then.
            let ended = reactors.forget(identity.id);
            if let (Some(on_end), Some(event_loop)) = (ended.on_end, place.event_loop(py)) {
                event_loop.call_method1(intern!(py, "call_soon"), (on_end, reason.as_str()))?;
            }
        }
        reactor.adopt(descriptors::socket(fd), identity);
        held.forget();
        Ok(true)
    }
}

impl Drop for PySubscription {
    fn drop(&mut self) {
        if !self.owner || !self.is_ours() || self.is_moved() {
            return;
        }
        let Place::Loop(place) = &self.place else { return };
        if self.core.drop_subscriber(&self.reader, &self.identity, CloseReason::Closed) {
            let reason = &CloseReason::Closed;
            while_dropping(|py| LoopReader::announce(place.bind(py), &self.identity, reason));
        }
        place.get().release(&self.identity);
    }
}

#[pymethods]
impl PySubscription {
    /// The client's id: what `send` and `disconnect` take. Opaque and not to be guessed.
    #[getter]
    fn id(&self) -> String {
        self.identity.name().to_string()
    }

    /// The names of its topics, sorted; those it had, once it is closed.
    #[getter]
    fn topics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let names = if self.is_ours() { self.core.topics_of(self.now()) } else { Vec::new() };
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
        self.now().closed.get().map(CloseReason::as_str)
    }

    /// Private: why the hub ended it without letting out what is queued: "client", "overflow" or "stalled"; else
    /// None. What the application called a reason is never one of them.
    #[getter]
    fn _cut(&self) -> Option<&str> {
        self.now().closed.get().filter(|reason| !reason.drains()).map(CloseReason::as_str)
    }

    /// How its bytes travel: "loop" (through the server) or "reactor" (handed off).
    #[getter]
    fn path(&self) -> &'static str {
        match self.place {
            Place::Loop(_) if !self.is_moved() => "loop",
            Place::Loop(_) | Place::Reactor(_) => "reactor",
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
        if !self.is_ours() {
            return Ok(PyPublication::known(None));
        }
        if let Some(broker) = self.core.broker() {
            let letter = Letter::Event { to: To::One((*self.identity.name()).into()), draft };
            let outcome = self.core.post(letter).or_raise(py)?;
            return Ok(PyPublication::later(outcome, broker.clone()));
        }
        self.core.send(Some(self.identity.id), draft).or_raise(py)?;
        Ok(PyPublication::known(None))
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

    /// Private: an awaitable that is done when it is known where the stream begins, and so `recovered`.
    fn _settled<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.identity.settling.get().filter(|settling| self.is_ours() && settling.get().is_none()) {
            None => Ok(Bound::new(py, Ready(py.None()))?.into_any()),
            Some(settling) => {
                let waiting = Waiting::new(settling.clone(), None);
                awaiting::into_python(py, async move {
                    let _ = waiting.await;
                    Ok(())
                })
            }
        }
    }

    /// The initial events are complete. Private.
    fn _initial<'py>(&self, py: Python<'py>, events: Vec<Bound<'py, PyAny>>) -> PyResult<()> {
        let drafts: PyResult<Vec<_>> =
            events.into_iter().map(|event| Fields::only(event).draft(py)).collect();
        if self.is_ours() && self.core.initial(&self.reader, &self.identity, drafts?).or_raise(py)? {
            match &self.place {
                Place::Loop(place) => place.get().resume_soon(self.identity.key),
                Place::Reactor(reactors) => {
                    if let Some(reactor) = reactors.find(self.identity.reader) {
                        reactor.resume(self.identity.key);
                    }
                }
            }
        }
        Ok(())
    }

    /// Private: whether `_hand_over` can be done here and now, and what it needs is there.
    ///
    /// Raises OSError when there is no thread or descriptor for a reactor.
    fn _can_hand_over(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(place) = self.loop_reader().filter(|_| self.is_ours()) else { return Ok(false) };
        let is_new = !self.reader.was_taken(&self.identity);
        if !is_new || self.closed().is_some() || !self.hub.get().is_now(&self.core) {
            return Ok(false);
        }
        let here = py.import(intern!(py, "asyncio"))?.call_method0(intern!(py, "get_running_loop"))?;
        if !place.event_loop(py).is_some_and(|event_loop| event_loop.is(&here)) {
            return Ok(false);
        }
        self.hub.get().start_reactors(py, &self.core)?;
        Ok(true)
    }

    /// Private: go on at a reactor, which gets the client's socket. `fd` is the hub's from here on, unless this
    /// returns False or raises. To be called on the subscription's loop.
    ///
    /// `on_end(reason)` is called on that loop when the stream has ended.
    fn _hand_over(slf: &Bound<'_, Self>, fd: i32, group: u64, on_end: Option<Py<PyAny>>) -> PyResult<bool> {
        let _inside = exit::enter(slf.py());
        Self::move_to_reactor(slf, fd, GroupId(group), on_end)
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
        other.cast::<Self>().is_ok_and(|other| other.get().identity.id == self.identity.id)
    }

    fn __hash__(&self) -> u64 {
        self.identity.id.0
    }

    fn __repr__(&self) -> String {
        let state = self.closed().map_or_else(|| "open".into(), |reason| format!("closed: {reason}"));
        format!("<Subscription {} ({state})>", &*self.identity.name())
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
