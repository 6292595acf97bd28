//! `Subscription`: a native async iterator over one subscriber's bytes, and a handle to the subscriber.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::awaitable::{Next, Ready};
use super::convert::{Fields, Given, topics};
use super::exceptions::{OrRaise, while_dropping};
use super::hub::PyHub;
use super::publication::PyPublication;
use super::reader::LoopReader;
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
    reader: Py<LoopReader>,
    identity: Arc<Identity>,
    /// Whether the stream ends with this object: `get` and the callbacks give handles that do not.
    owner: bool,
}

impl PySubscription {
    pub fn owner<'py>(
        hub: &Bound<'py, PyHub>,
        reader: &Bound<'py, LoopReader>,
        identity: Arc<Identity>,
    ) -> PyResult<Bound<'py, Self>> {
        let this = Self { hub: hub.clone().unbind(), reader: reader.clone().unbind(), identity, owner: true };
        Bound::new(hub.py(), this)
    }

    pub fn handle<'py>(
        hub: &Bound<'py, PyHub>,
        reader: &Bound<'py, LoopReader>,
        identity: Arc<Identity>,
    ) -> PyResult<Bound<'py, Self>> {
        let this =
            Self { hub: hub.clone().unbind(), reader: reader.clone().unbind(), identity, owner: false };
        Bound::new(hub.py(), this)
    }

    pub fn poll(&self, py: Python<'_>) -> Poll {
        let reader = self.reader.get();
        if !reader.is_ours() {
            return Poll::Ended;
        }
        let mut out = Vec::new();
        match reader.hub.take(&reader.reader, &self.identity, &mut out) {
            Taken::Some => Poll::Ready(reader.join(py, out)),
            Taken::Nothing => Poll::Pending,
            Taken::End => Poll::Ended,
        }
    }

    /// A future that is done when there is something.
    pub fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let reader = self.reader.get();
        if reader.has_waiter(py, self.identity.key)? {
            return Err(PyRuntimeError::new_err("this subscription is iterated by another task already"));
        }
        reader.wait(py, self.identity.key)
    }

    fn end(&self, py: Python<'_>, reason: &CloseReason) -> PyResult<()> {
        let reader = self.reader.get();
        if !reader.is_ours() {
            return Ok(());
        }
        if let Some(wake) = reader.hub.close(&reader.reader, &self.identity, reason.clone()) {
            if wake {
                reader.resume_soon(self.identity.key);
            }
            LoopReader::announce(self.reader.bind(py), &self.identity, reason)?;
        }
        Ok(())
    }
}

impl Drop for PySubscription {
    fn drop(&mut self) {
        let reader = self.reader.get();
        if !self.owner || !reader.is_ours() {
            return;
        }
        if reader.hub.drop_subscriber(&reader.reader, &self.identity, CloseReason::Closed) {
            while_dropping(|py| {
                LoopReader::announce(self.reader.bind(py), &self.identity, &CloseReason::Closed)
            });
        }
        reader.release(self.identity.key);
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
        let reader = self.reader.get();
        let names = if reader.is_ours() { reader.hub.topics_of(&self.identity) } else { Vec::new() };
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
        let reader = self.reader.get();
        reader.is_ours().then(|| reader.info(py, self.identity.key)).flatten()
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

    /// Get these topics too, from the next event on.
    ///
    /// Returns False when the client is not there any more. Raises ValueError for a name that breaks a rule.
    #[pyo3(name = "join")]
    fn join_topics(&self, py: Python<'_>, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        let topics = self::topics(topics)?;
        let reader = self.reader.get();
        if !reader.is_ours() {
            return Ok(false);
        }
        reader.hub.join(self.identity.id, &topics).or_raise(py)
    }

    /// Do not get these topics any more, from the next event on.
    ///
    /// Returns False when the client is not there any more.
    #[pyo3(name = "leave")]
    fn leave_topics(&self, topics: &Bound<'_, PyAny>) -> PyResult<bool> {
        let topics = self::topics(topics)?;
        let reader = self.reader.get();
        Ok(reader.is_ours() && reader.hub.leave(self.identity.id, &topics))
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
        let reader = self.reader.get();
        if reader.is_ours() {
            reader.hub.send(Some(self.identity.id), draft).or_raise(py)?;
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
        self.reader.get().set_on_close(self.identity.key, callback);
    }

    /// The initial events are complete. Private.
    fn _initial<'py>(&self, py: Python<'py>, events: Vec<Bound<'py, PyAny>>) -> PyResult<()> {
        let reader = self.reader.get();
        let drafts: PyResult<Vec<_>> =
            events.into_iter().map(|event| Fields::only(event).draft(py)).collect();
        if reader.is_ours() && reader.hub.initial(&reader.reader, &self.identity, drafts?).or_raise(py)? {
            reader.resume_soon(self.identity.key);
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
        self.reader.get().event_loop(py)
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
