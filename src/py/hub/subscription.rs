//! `Subscription`: one client's stream, as an async iterator of bytes and a handle to the client.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::awaitable::Ready;
use super::generations::Generations;
use super::iteration::Iteration;
use super::loop_reader::LoopReader;
use super::next::Next;
use super::publication::PyPublication;
use super::reactors::{HandedClient, Reactors};
use super::stream::{Place, Stream};
use crate::broker::letter::{Letter, To};
use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::ids::GroupId;
use crate::outcome::Waiting;
use crate::py::process::{awaiting, exit};
use crate::py::values::arguments::{Argument, if_given};
use crate::py::values::convert::{Fields, Given, topics};
use crate::py::values::end_reason::{end_of_kind, end_reason};
use crate::py::values::exceptions::{OrRaise, while_dropping};
use crate::reader::Reader;
use crate::topic::Topic;

/// One client's stream: an async iterator of bytes ready to be written, and a handle to the client.
#[pyclass(frozen, name = "Subscription", module = "sse_hub._core", weakref)]
pub struct PySubscription {
    /// The Python object of the hub.
    hub: Py<PyAny>,
    stream: Arc<Stream>,
    /// The application's object, kept here so that a handle still has it when the subscriber is gone.
    info: Option<Py<PyAny>>,
    /// Whether the stream ends with this object: `get` and the callbacks return handles that do not.
    is_owner: bool,
    /// Whether the client had everything before it came: all its topics have ended.
    is_over: bool,
}

impl PySubscription {
    /// The object that `subscribe` returns.
    pub fn owner<'py>(
        hub: &Bound<'py, PyAny>,
        generations: &Arc<Generations>,
        reader: &Bound<'py, LoopReader>,
        identity: Arc<Identity>,
        info: Option<Py<PyAny>>,
        is_over: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let has_info = info.is_some();
        let mut this = Self::on_loop(hub, generations, reader, identity);
        (this.is_owner, this.info, this.is_over) = (true, info, is_over);
        let this = Bound::new(hub.py(), this)?;
        if has_info {
            reader.get().clients.set_owner(&this.get().stream.first, this.as_any())?;
        }
        Ok(this)
    }

    /// A handle to a subscriber of an event loop.
    pub fn on_loop(
        hub: &Bound<'_, PyAny>,
        generations: &Arc<Generations>,
        reader: &Bound<'_, LoopReader>,
        identity: Arc<Identity>,
    ) -> Self {
        let found = reader.get();
        let info = found.clients.info(hub.py(), &identity);
        let place = Place::Loop(reader.clone().unbind());
        let stream =
            Stream::new(generations.clone(), found.hub.clone(), found.reader.clone(), place, identity);
        Self { hub: hub.clone().unbind(), stream: Arc::new(stream), info, is_owner: false, is_over: false }
    }

    /// A handle to a subscriber of a reactor.
    pub fn on_reactor(
        hub: &Bound<'_, PyAny>,
        generations: &Arc<Generations>,
        reactors: &Arc<Reactors>,
        reader: Arc<Reader>,
        identity: Arc<Identity>,
    ) -> Self {
        let info = reactors.info(hub.py(), identity.id);
        let place = Place::Reactor(reactors.clone());
        let stream = Stream::new(generations.clone(), reactors.hub.clone(), reader, place, identity);
        Self { hub: hub.clone().unbind(), stream: Arc::new(stream), info, is_owner: false, is_over: false }
    }

    /// A handle to a subscriber of `core` at its current reader; `None` when the reader is gone.
    pub fn find<'py>(
        hub: &Bound<'py, PyAny>,
        generations: &Arc<Generations>,
        core: &Arc<Hub>,
        identity: Arc<Identity>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = hub.py();
        if let Some(reactors) = generations.reactors_of(core)
            && let Some(reactor) = reactors.find(identity.reader)
        {
            let reader = reactor.reader.clone();
            return Bound::new(py, Self::on_reactor(hub, generations, &reactors, reader, identity)).map(Some);
        }
        let is_its = |reader: &Py<LoopReader>| {
            Arc::ptr_eq(&reader.get().hub, core) && reader.get().reader.id == identity.reader
        };
        match generations.readers(py).into_iter().find(is_its) {
            Some(reader) => {
                Bound::new(py, Self::on_loop(hub, generations, reader.bind(py), identity)).map(Some)
            }
            None => Ok(None),
        }
    }
}

fn names(topics: &[Topic]) -> Vec<&str> {
    topics.iter().map(Topic::as_str).collect()
}

impl Drop for PySubscription {
    fn drop(&mut self) {
        let stream = &self.stream;
        if !self.is_owner || !stream.is_ours() {
            return;
        }
        let Some(reader) = stream.loop_reader() else { return };
        let reason = stream.reading.reason();
        if stream.hub.drop_subscriber(&stream.reader, &stream.first, reason.clone()) {
            while_dropping(|py| {
                if let Some(info) = &self.info {
                    reader.get().clients.set_info(&stream.first, info.clone_ref(py));
                }
                LoopReader::announce(reader.bind(py), &stream.first, &reason)
            });
        }
        reader.get().clients.remove(&stream.first);
    }
}

#[pymethods]
impl PySubscription {
    /// The client's id, for ``send`` and ``disconnect``.
    #[getter]
    fn id(&self) -> String {
        self.stream.first.name().to_string()
    }

    /// The names of its topics, sorted; once it is closed, those that it had.
    #[getter]
    fn topics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let names = if self.stream.is_ours() {
            self.stream.hub.topics_of(self.stream.identity())
        } else {
            Vec::new()
        };
        PyTuple::new(py, names.iter().map(|name| PyString::new(py, name)))
    }

    /// The ``user`` that the application passed, or None.
    #[getter]
    fn user(&self) -> Option<&str> {
        self.stream.first.user.as_deref()
    }

    /// The ``info`` object that the application passed, or None.
    #[getter]
    fn info(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.info.as_ref().map(|info| info.clone_ref(py))
    }

    /// True when the client resumed completely, False when it was reset, None for a newcomer.
    #[getter]
    fn recovered(&self) -> Option<bool> {
        self.stream.first.recovered.get().copied().flatten()
    }

    /// Why the stream ended: a str with a ``kind``.
    #[getter]
    fn closed<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.stream.closed(py).map(|reason| end_reason(py, reason)).transpose()
    }

    /// How its bytes travel: through the server on the event loop, or handed off to a reactor.
    #[getter]
    fn path(&self) -> &'static str {
        if self.stream.loop_reader().is_some() { "loop" } else { "reactor" }
    }

    /// Join these topics too, from the next event on.
    #[pyo3(name = "join")]
    fn join_topics(&self, py: Python<'_>, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        let given = self::topics(topics)?;
        self.hub.call_method1(py, intern!(py, "_check_join"), (self.user(), names(&given)))?;
        self.stream.join(py, &given).or_raise(py)
    }

    /// ``join`` where the function of ``authorize`` is async: the topics are joined once it allows them.
    fn ajoin<'py>(slf: &Bound<'py, Self>, topics: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, given) = (slf.py(), self::topics(topics)?);
        slf.get().hub.bind(py).call_method1(intern!(py, "_join_when_allowed"), (slf, names(&given)))
    }

    // Join topics that the application allows.
    fn _join(&self, py: Python<'_>, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.stream.join(py, &self::topics(topics)?).or_raise(py)
    }

    /// Leave these topics, from the next event on.
    #[pyo3(name = "leave")]
    fn leave_topics(&self, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        let topics = self::topics(topics)?;
        Ok(self.stream.is_ours() && self.stream.hub.leave(self.stream.first.id, &topics))
    }

    /// Send an event to this client alone: in order with everything else, without an id, not replayed.
    #[pyo3(signature = (data=Given::Omitted, *, raw_data=None, event=None, retry=None, comment=None, key=None),
           text_signature = "($self, data=..., *, raw_data=None, event=None, retry=None, comment=None, key=None)")]
    #[allow(clippy::too_many_arguments, reason = "the fields of an event, by keyword")]
    fn send<'py>(
        &self,
        py: Python<'py>,
        data: Given<'py>,
        raw_data: Option<Bound<'py, PyAny>>,
        event: Option<Bound<'py, PyAny>>,
        retry: Option<Bound<'py, PyAny>>,
        comment: Option<Bound<'py, PyAny>>,
        key: Option<Bound<'py, PyAny>>,
    ) -> PyResult<PyPublication> {
        let fields = Fields { data, raw_data, event, retry, comment, key };
        let draft = fields.draft(py, self.stream.generations.traceparent(py)?)?;
        if !self.stream.is_ours() {
            return Ok(PyPublication::known(None));
        }
        if let Some(broker) = self.stream.hub.broker() {
            let letter = Letter::Event { to: To::One((*self.stream.first.name()).into()), draft };
            let outcome = self.stream.hub.post(letter).or_raise(py)?;
            return Ok(PyPublication::later(outcome, broker.clone(), self.stream.generations.loops()));
        }
        self.stream.hub.send(Some(self.stream.first.id), draft).or_raise(py)?;
        Ok(PyPublication::known(None))
    }

    /// End the stream after what was published or sent so far.
    #[pyo3(signature = (*, drain=Argument::of(true), reason=None),
           text_signature = "($self, *, drain=True, reason=None)")]
    fn close(&self, py: Python<'_>, drain: Argument<bool>, reason: Option<Argument<&str>>) -> PyResult<()> {
        let drain = drain.named("drain", "True or False")?;
        let reason = if_given(reason, "reason", "a str")?;
        let reason = CloseReason::Closed { text: reason.map(Into::into), drains: drain };
        let hub = &self.stream.hub;
        // Events published so far have yet to come back from the broker; the end comes behind them.
        if drain
            && self.stream.is_ours()
            && hub.broker().is_some()
            && hub.close_by_broker(self.stream.identity(), &reason)
        {
            return Ok(());
        }
        self.stream.end(py, &reason)
    }

    // End the stream for a reason that its response observed; an `EndKind`.
    fn _end(&self, py: Python<'_>, kind: &str) -> PyResult<()> {
        self.stream.end(py, &end_of_kind(kind)?)
    }

    /// ``close()`` as an awaitable, for ``contextlib.aclosing``.
    fn aclose(&self, py: Python<'_>) -> PyResult<Ready> {
        self.stream.end(py, &CloseReason::CLOSED)?;
        Ok(Ready(py.None()))
    }

    // Call `callback(reason)` on the subscription's loop when the stream is closed by anything but its consumer.
    fn _on_close(&self, callback: Option<Py<PyAny>>) {
        if let Some(reader) = self.stream.loop_reader() {
            reader.get().clients.set_on_close(&self.stream.first, callback);
        }
    }

    // Ask `callback()` how many bytes are unsent, and how many the client has acknowledged, instead of counting the time
    // of a write.
    fn _ask_progress(&self, callback: Py<PyAny>) {
        if let Some(reader) = self.stream.loop_reader() {
            reader.get().clients.set_progress(&self.stream.first, callback);
            self.stream.reader.ask_for_progress(&self.stream.first);
        }
    }

    // Call `callback()`, which has the connection hold few bytes, once the stream carries what may be dropped or
    // replaced.
    fn _keep_fresh_by(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        self.stream.keep_fresh_by(py, callback)
    }

    // An awaitable that is done when the start of the stream is resolved, and `recovered` known.
    fn _resolved<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let resolving = self.stream.first.resolving.get();
        match resolving.filter(|resolving| self.stream.is_ours() && resolving.get().is_none()) {
            None => Ok(Bound::new(py, Ready(py.None()))?.into_any()),
            Some(resolving) => {
                let waiting = Waiting::new(resolving.clone(), None);
                awaiting::into_python(py, async move {
                    let _ = waiting.await;
                    Ok(())
                })
            }
        }
    }

    // Deliver the initial events.
    fn _initial<'py>(&self, py: Python<'py>, events: Vec<Bound<'py, PyAny>>) -> PyResult<()> {
        let drafts: PyResult<Vec<_>> =
            events.into_iter().map(|event| Fields::only(event).draft(py, None)).collect();
        if self.stream.is_ours()
            && self
                .stream
                .hub
                .deliver_initial(&self.stream.reader, &self.stream.first, drafts?)
                .or_raise(py)?
        {
            self.stream.resume();
        }
        Ok(())
    }

    // Whether the client already had every event of its topics, which have ended, when it came.
    fn _is_over(&self) -> bool {
        self.is_over
    }

    // Compress the body, behind a header that was sent or that it owes. False once the subscription was iterated.
    fn _compress(&self, owes_header: bool) -> bool {
        self.stream.loop_reader().is_some()
            && self.stream.is_ours()
            && self.stream.reader.compress(&self.stream.first, owes_header)
    }

    // Whether `_hand_over` can be called here and now. Starts what it needs.
    //
    // Raises OSError when there is no thread or descriptor for a reactor.
    fn _can_hand_over(&self, py: Python<'_>) -> PyResult<bool> {
        self.stream.can_hand_off(py)
    }

    // Transfer the stream to a reactor, with the client's socket. `fd` belongs to the hub from here on, unless this
    // returns False or raises. To be called on the subscription's loop.
    //
    // `on_end(reason)` is called on that loop when the stream has ended.
    fn _hand_over(&self, py: Python<'_>, fd: i32, group: u64, on_end: Option<Py<PyAny>>) -> PyResult<bool> {
        let _inside = exit::enter(py);
        let info = self.info(py);
        self.stream.hand_off(py, fd, GroupId(group), HandedClient { info, on_end })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.hub)?;
        visit.call(&self.info)?;
        match &self.stream.place {
            Place::Loop(reader) => visit.call(reader),
            Place::Reactor(_) => Ok(()),
        }
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Iteration {
        let stream = slf.get().stream.clone();
        Iteration::new(slf.into_any().unbind(), stream)
    }

    fn __anext__(slf: Bound<'_, Self>) -> Next {
        let stream = slf.get().stream.clone();
        Next::new(slf.into_any().unbind(), stream)
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
        self.stream.end(py, &CloseReason::CLOSED)?;
        Ok(Ready(py.None()))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().stream.first.id == self.stream.first.id)
    }

    fn __hash__(&self) -> u64 {
        self.stream.first.id.0
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let reason = self.stream.closed(py);
        let state = reason.map_or_else(|| "open".into(), |reason| format!("closed: {}", reason.as_str()));
        format!("<Subscription {} ({state})>", &*self.stream.first.name())
    }

    // The event loop that delivers to it; None when it is gone.
    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.stream.loop_reader().and_then(|reader| reader.get().event_loop(py))
    }

    #[getter]
    fn _hub(&self, py: Python<'_>) -> Py<PyAny> {
        self.hub.clone_ref(py)
    }
}
