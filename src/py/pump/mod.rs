//! A generator's events to a server's connection: each step without a frame of Python, everything that is ready in
//! one write.
//!
//! The pump is awaited in place of `async for`, in the task that drives the generator.
//!
//! ```text
//!            an event: encode it; write it at once if it is the first since the generator waited,
//!              .---.            else gather it
//!              v   |
//!   step the generator --it waits--> write what is gathered --> the task waits for what the generator waits for
//!     ^    |
//!     |    '-- 64 KiB, or gathered for 1 ms: write; then let the event loop have a turn
//!     |                          |
//!     '------- drained <---------'  the connection takes no more: wait
//! ```
//!
//! Gathering never delays an event behind a step that blocks, with one exception: the second event after a wait is
//! held for the length of the next step, because nothing says beforehand how long that takes.

mod sink;
mod step;

use std::time::{Duration, Instant};

use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::values::encode::EventEncoder;
use sink::Sink;
use step::{Awaited, Source, Step};

/// How long an event may be gathered while others follow without a wait.
const GATHERING: Duration = Duration::from_millis(1);
/// How many bytes of events go out in one write.
const WRITE: usize = 64 * 1024;

#[pyclass(module = "sse_hub._core")]
pub struct Pump {
    /// The iterator of the content; `None` once it has ended.
    source: Option<Source>,
    /// The content's next event, while it is awaited.
    next: Option<Awaited>,
    /// The connection takes no more, until this is over.
    drain: Option<Awaited>,
    encoder: Py<EventEncoder>,
    sep: Py<PyString>,
    sink: Sink,
    /// When the oldest event that is gathered came; `None` where the next one is the first since the content waited.
    since: Option<Instant>,
    /// The stream ends: if content that was cancelled keeps yielding, nothing more is sent.
    is_ending: bool,
}

#[pymethods]
impl Pump {
    #[new]
    fn new(
        content: &Bound<'_, PyAny>,
        encoder: Py<EventEncoder>,
        sep: Py<PyString>,
        transport: Py<PyAny>,
        flow: Py<PyAny>,
        socket: Option<i32>,
    ) -> PyResult<Self> {
        Ok(Self {
            source: Some(Source::new(content)?),
            next: None,
            drain: None,
            encoder,
            sep,
            sink: Sink::new(transport, flow, socket),
            since: None,
            is_ending: false,
        })
    }

    /// Whether events wait for the connection to take what was written before.
    #[getter]
    fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// From now on, content that ignores its cancellation sends nothing more.
    fn end(&mut self) {
        self.is_ending = true;
    }

    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.advance(py, None)
    }

    #[pyo3(signature = (kind, value=None, trace=None))]
    fn throw(
        &mut self,
        py: Python<'_>,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        trace: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        drop(trace);
        let error = PyErr::from_value(value.filter(|value| !value.is_none()).unwrap_or(kind));
        match self.advance(py, Some(error))? {
            None => Err(PyStopIteration::new_err(())),
            some => Ok(some),
        }
    }

    fn close(&mut self, py: Python<'_>) -> PyResult<()> {
        self.source = None;
        for awaited in [self.drain.take(), self.next.take()].into_iter().flatten() {
            awaited.close(py)?;
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.source.as_ref().map(Source::object))?;
        for awaited in [&self.drain, &self.next].into_iter().flatten() {
            visit.call(awaited.object())?;
        }
        self.sink.traverse(&visit)
    }

    fn __clear__(&mut self) {
        self.source = None;
        self.next = None;
        self.drain = None;
    }
}

impl Pump {
    /// Go on until the task must wait, and return what for, or `None` at the content's end. An exception that is
    /// `thrown` goes to whatever is awaited.
    fn advance(&mut self, py: Python<'_>, mut thrown: Option<PyErr>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if let Some(drain) = &self.drain {
                match drain.step(py, thrown.take()) {
                    Ok(Step::Waits(on)) => return Ok(Some(on)),
                    Ok(Step::Done(_)) => self.drain = None,
                    Err(error) => {
                        self.drain = None;
                        return Err(error);
                    }
                }
                continue;
            }
            if self.next.is_none() {
                if let Some(error) = thrown {
                    return Err(error);
                }
                let Some(source) = &mut self.source else {
                    return Err(PyRuntimeError::new_err("the pump has ended"));
                };
                self.next = Some(source.next(py)?);
            }
            let Some(next) = &self.next else { continue };
            match next.step(py, thrown.take()) {
                Ok(Step::Waits(on)) => {
                    self.sink.flush(py)?;
                    self.since = None;
                    return Ok(Some(on));
                }
                Ok(Step::Done(item)) => {
                    self.next = None;
                    if self.take(item.bind(py))? {
                        // A bare yield: the task goes on in the loop's next turn.
                        return Ok(Some(py.None()));
                    }
                }
                Err(error) => {
                    self.next = None;
                    self.source = None;
                    self.sink.flush(py)?;
                    return if error.is_instance_of::<PyStopAsyncIteration>(py) {
                        Ok(None)
                    } else {
                        Err(error)
                    };
                }
            }
        }
    }

    /// Encode an event, and write or gather it. True when other tasks should have a turn.
    fn take(&mut self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = item.py();
        if self.is_ending {
            return Err(CancelledError::new_err(()));
        }
        let encoder = self.encoder.get();
        if let Err(error) = self.sink.gather(|out| encoder.append(item, self.sep.bind(py), out)) {
            self.sink.flush(py)?;
            return Err(error);
        }
        let now = Instant::now();
        let Some(since) = self.since else {
            self.since = Some(now);
            return self.write(py).map(|()| false);
        };
        if self.sink.gathered() < WRITE && now - since < GATHERING {
            return Ok(false);
        }
        self.since = Some(now);
        self.write(py)?;
        Ok(self.drain.is_none())
    }

    fn write(&mut self, py: Python<'_>) -> PyResult<()> {
        self.sink.flush(py)?;
        if self.sink.is_paused(py)? {
            self.drain = Some(self.sink.drained(py)?);
        }
        Ok(())
    }
}
