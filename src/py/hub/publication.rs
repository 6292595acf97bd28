//! The result of `publish`.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyTimeoutError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::answers::{Asked, FindAnswers, published, text};
use super::awaitable::Ready;
use crate::broker::Broker;
use crate::config::seconds;
use crate::ids::EventId;
use crate::outcome::{Failure, Outcome, Sent, Waiting};
use crate::py::process::awaiting;
use crate::py::process::fork::Process;
use crate::py::values::arguments::{Argument, Number, if_given};
use crate::py::values::exceptions::{OrRaise, from_failure};

/// How long a waiting thread waits between checks for signals.
const SLICE: Duration = Duration::from_millis(50);

enum State {
    Known(Option<EventId>),
    Later {
        outcome: Arc<Outcome>,
        broker: Arc<dyn Broker>,
        /// Its hub's loops.
        loops: Weak<dyn FindAnswers>,
        process: Process,
    },
}

/// The outcome of a publication.
#[pyclass(frozen, name = "Publication", module = "sse_hub._core")]
pub struct PyPublication(State);

impl PyPublication {
    pub fn known(id: Option<EventId>) -> Self {
        Self(State::Known(id))
    }

    pub fn later(outcome: Arc<Outcome>, broker: Arc<dyn Broker>, loops: Weak<dyn FindAnswers>) -> Self {
        Self(State::Later { outcome, broker, loops, process: Process::current() })
    }

    /// The outcome, if it is known.
    fn get(&self) -> Option<Sent> {
        match &self.0 {
            State::Known(id) => Some(Ok(*id)),
            State::Later { outcome, process, .. } if process.is_current() => outcome.get(),
            State::Later { .. } => Some(Err(inherited())),
        }
    }
}

/// In a forked child, a publication of its parent: the outcome arrives there, and its lock may be held
/// here forever.
fn inherited() -> Failure {
    Failure::Unknown("the process this one was forked from published it, and learns the outcome".into())
}

impl Drop for PyPublication {
    fn drop(&mut self) {
        if let State::Later { outcome, broker, process, .. } = &self.0
            && process.is_current()
            && let Some(failure) = outcome.abandon()
        {
            broker.report_unseen(&failure);
        }
    }
}

#[pymethods]
impl PyPublication {
    /// The event's id once it is known: opaque and never reused.
    #[getter]
    fn id(&self, py: Python<'_>) -> Option<Py<PyString>> {
        self.get().and_then(Result::ok).and_then(|id| text(py, id))
    }

    /// Whether the outcome is known.
    fn done(&self) -> bool {
        self.get().is_some()
    }

    /// Return the event's id, waiting for it at most ``timeout`` seconds.
    #[pyo3(signature = (timeout=None))]
    fn result(&self, py: Python<'_>, timeout: Option<Argument<Number>>) -> PyResult<Option<Py<PyString>>> {
        let timeout = if_given(timeout, "timeout", "a number of seconds")?.map(|timeout| timeout.0);
        let outcome = match &self.0 {
            State::Known(id) => return Ok(text(py, *id)),
            State::Later { outcome, process, .. } if process.is_current() => outcome,
            State::Later { .. } => return Err(from_failure(py, &inherited())),
        };
        let deadline = timeout
            .map(|timeout| PyResult::Ok(Instant::now() + seconds("timeout", timeout).or_raise(py)?))
            .transpose()?;
        loop {
            let now = Instant::now();
            let until = deadline.map_or(now + SLICE, |deadline| deadline.min(now + SLICE));
            let sent = py.detach(|| outcome.wait_until(until));
            if let Some(sent) = sent {
                return published(py, &sent);
            }
            py.check_signals()?;
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(PyTimeoutError::new_err(format!(
                    "the outcome is not known after {} seconds",
                    timeout.unwrap_or_default()
                )));
            }
        }
    }

    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (outcome, broker, loops) = match &self.0 {
            State::Known(id) => return ready(py, text(py, *id)),
            State::Later { outcome, broker, loops, process } if process.is_current() => {
                (outcome, broker, loops)
            }
            State::Later { .. } => return Err(from_failure(py, &inherited())),
        };
        if let Some(sent) = outcome.look() {
            return ready(py, published(py, &sent)?);
        }
        let mut waiting = Waiting::new(outcome.clone(), Some(broker.clone()));
        let event_loop = pyo3_async_runtimes::get_running_loop(py)?;
        if let Some(answers) = loops.upgrade().and_then(|loops| loops.find(&event_loop)) {
            let future = event_loop.call_method0(intern!(py, "create_future"))?;
            match answers.ask(future.clone().unbind(), waiting) {
                Asked::Later => return future.call_method0(intern!(py, "__await__")),
                Asked::Now(sent) => return ready(py, published(py, &sent)?),
                Asked::Never(back) => waiting = back,
            }
        }
        let future = awaiting::into_python(py, async move {
            let sent = waiting.await;
            Python::attach(|py| published(py, &sent))
        })?;
        future.call_method0(intern!(py, "__await__"))
    }

    fn __repr__(&self) -> String {
        match (&self.0, self.get()) {
            (_, None) => "<Publication under way>".into(),
            (_, Some(Ok(Some(id)))) => format!("<Publication id={id}>"),
            (_, Some(Ok(None))) => "<Publication to one subscriber>".into(),
            (_, Some(Err(failure))) => format!("<Publication failed: {failure}>"),
        }
    }
}

fn ready(py: Python<'_>, value: Option<Py<PyString>>) -> PyResult<Bound<'_, PyAny>> {
    let ready = Ready(value.into_pyobject(py)?.unbind());
    Ok(Bound::new(py, ready)?.into_any())
}
