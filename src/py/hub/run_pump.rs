//! A run's generator to its topic, in a process alone: each step without a frame of Python.
//!
//! The pump is awaited in place of `async for`. It ends with `None` at the generator's end, or with a tuple of the one
//! event that it could not publish: the hub is full, or the run too large.

use std::time::Instant;

use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::class::PyHub;
use super::gathering::Part;
use super::loop_reader::LoopReader;
use crate::error::Error;
use crate::frame::Draft;
use crate::py::pump::step::{self, Awaited, Source, Step};
use crate::py::values::convert::Fields;
use crate::py::values::exceptions::OrRaise;
use crate::topic::{Topic, TopicId};

/// Events without a wait after which the loop's other tasks have a turn.
const BURST: u32 = 32;

#[pyclass(module = "sse_hub._core")]
pub struct RunPump {
    hub: Py<PyHub>,
    topic: Topic,
    run: TopicId,
    /// `None` once the generator has ended.
    source: Option<Source>,
    /// The generator's next event, while it is awaited.
    next: Option<Awaited>,
    /// How many bytes the run may still yield.
    room: usize,
    /// What was published, if the application wants it.
    published: Option<Py<PyList>>,
    /// Events since the generator waited.
    burst: u32,
    /// A generator that ignores its cancellation publishes nothing more.
    is_ending: bool,
    /// Where events that follow each other closely are gathered, once there were some.
    reader: Option<Py<LoopReader>>,
    /// What that knows of this run.
    part: Part,
}

/// What has become of an event.
enum Outcome {
    Published,
    /// The hub is full: delivery is behind.
    Full,
    /// The run would be larger than it may be.
    TooLarge,
}

#[pymethods]
impl RunPump {
    #[new]
    fn new(
        hub: Py<PyHub>,
        topic: &str,
        run: u64,
        content: &Bound<'_, PyAny>,
        room: usize,
        published: Option<Py<PyList>>,
    ) -> PyResult<Self> {
        let topic = Topic::new(topic).or_raise(content.py())?;
        let source = Some(Source::new(content)?);
        let run = TopicId(run);
        Ok(Self {
            hub,
            topic,
            run,
            source,
            next: None,
            room,
            published,
            burst: 0,
            is_ending: false,
            reader: None,
            part: Part::default(),
        })
    }

    /// From now on, a generator that ignores its cancellation publishes nothing more.
    fn end(&mut self) {
        self.is_ending = true;
    }

    /// Publish an event that was given back. None while the hub is full, False if the run would be too large.
    fn publish(&mut self, item: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
        Ok(match self.take(item)? {
            Outcome::Published => Some(true),
            Outcome::TooLarge => Some(false),
            Outcome::Full => None,
        })
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
        step::throw(kind, value, |error| self.advance(py, Some(error)))
    }

    fn close(&mut self, py: Python<'_>) -> PyResult<()> {
        self.source = None;
        self.next.take().map_or(Ok(()), |next| next.close(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.hub)?;
        visit.call(self.source.as_ref().map(Source::object))?;
        visit.call(self.next.as_ref().map(Awaited::object))?;
        visit.call(&self.reader)?;
        visit.call(&self.published)
    }

    fn __clear__(&mut self) {
        self.source = None;
        self.next = None;
        self.reader = None;
        self.published = None;
    }
}

impl RunPump {
    /// Go on until the task must wait, and return what for, or `None` at the generator's end. An exception that is
    /// `thrown` goes to the generator.
    fn advance(&mut self, py: Python<'_>, mut thrown: Option<PyErr>) -> PyResult<Option<Py<PyAny>>> {
        loop {
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
                    self.burst = 0;
                    return Ok(Some(on));
                }
                Ok(Step::Done(item)) => {
                    self.next = None;
                    if self.is_ending {
                        return Err(CancelledError::new_err(()));
                    }
                    let item = item.bind(py);
                    let Outcome::Published = self.take(item)? else {
                        let unpublished = PyTuple::new(py, [item])?;
                        return Err(PyStopIteration::new_err((unpublished.unbind(),)));
                    };
                    self.burst += 1;
                    if self.burst == BURST {
                        self.burst = 0;
                        // A bare yield: the task goes on in the loop's next turn.
                        return Ok(Some(py.None()));
                    }
                }
                Err(error) => {
                    (self.next, self.source) = (None, None);
                    return if error.is_instance_of::<PyStopAsyncIteration>(py) {
                        Ok(None)
                    } else {
                        Err(error)
                    };
                }
            }
        }
    }

    fn take(&mut self, item: &Bound<'_, PyAny>) -> PyResult<Outcome> {
        let py = item.py();
        let generations = self.hub.get().generations();
        let draft = Fields::only(item.clone()).draft(py, generations.traceparent(py)?)?;
        let Some(room) = self.room.checked_sub(draft.len()) else { return Ok(Outcome::TooLarge) };
        match self.publish_draft(py, draft)? {
            Err(Error::HubFull { .. }) => return Ok(Outcome::Full),
            published => published.or_raise(py)?,
        }
        self.room = room;
        if let Some(published) = &self.published {
            published.bind(py).append(item)?;
        }
        Ok(Outcome::Published)
    }

    /// Publish an event; several that follow each other closely wake the readers once. The inner error is the hub's.
    fn publish_draft(&mut self, py: Python<'_>, draft: Draft) -> PyResult<Result<(), Error>> {
        let (now, size) = (Instant::now(), draft.len());
        let generations = self.hub.get().generations();
        if self.part.comes(now) && self.reader.is_none() {
            self.reader = generations.reader_here(py)?;
        }
        let reader = self.reader.as_ref().map(|reader| reader.bind(py));
        let gathers = reader.map(Bound::get).filter(|reader| reader.gathers(now, &mut self.part));
        let published = generations.publish_alone(py, &self.topic, self.run, draft, gathers)?;
        if let (Ok(is_left), Some(reader)) = (&published, reader) {
            LoopReader::gather(reader, now, size, *is_left, &mut self.part)?;
        }
        Ok(published.map(drop))
    }
}
