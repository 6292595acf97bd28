//! A generator's events to a server's connection: each step without a frame of Python, everything that is ready in
//! one write.
//!
//! The pump is awaited in place of `async for`, in the task that drives the generator.
//!
//! ```text
//!            an event: encode it; write it at once if none was written for a while,
//!              .---.            else gather it
//!              v   |
//!   step the generator --it waits--> write what is gathered --> the task waits for what the generator waits for
//!     ^    |     ^ |
//!     |    |     '-'-- it is likely to go on in one of the loop's next turns: hold what is gathered
//!     |    '-- 64 KiB, or gathered for long enough: write; then let the event loop have a turn
//!     |                          |
//!     '------- drained <---------'  the connection takes no more: wait
//! ```
//!
//! What is written goes to the connection, or else to a function that sends it, which the task awaits. The content
//! may wait by then: the task begins to wait for the same only when the function has returned, so content is driven
//! from one task only, and a cancellation in between reaches it where it waits.
//!
//! How long is long enough, and what is likely, [`gathering`] and [`holding`] say. Gathering never delays an event
//! behind a step of its own content that blocks, with one exception: an event that comes soon after a write is held for
//! the length of the next step, because nothing says beforehand how long that takes. What a subscription gives is
//! written at once: it is everything that waits, or as much as a slow client should be given.

mod gathering;
mod holding;
mod sink;
pub mod step;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::hub::subscription::PySubscription;
use super::values::encode::EventEncoder;
use gathering::Gathering;
use holding::{Holding, hold};
use sink::Sink;
use step::{Awaited, Source, Step};

/// How many bytes of events go out in one write.
const WRITE: usize = 64 * 1024;

/// What follows once what was written is out.
enum Then {
    /// The content's next step.
    Step,
    /// Other tasks have a turn.
    Turn,
    /// The task waits for what the content waits for.
    Wait(Py<PyAny>),
    /// The content has ended.
    End(PyResult<()>),
}

/// What the pump does next.
enum Flow {
    /// The task waits for this.
    Wait(Py<PyAny>),
    /// A step, with an exception that is thrown into what is awaited.
    Step(Option<PyErr>),
    End,
}

#[pyclass(module = "sse_hub._core", frozen)]
pub struct Pump {
    /// Locked while the content makes a step. Content may run an event loop of its own in that, whose callbacks find it
    /// locked: nothing waits for it.
    state: Mutex<State>,
    /// The stream ends: if content that was cancelled keeps yielding, nothing more is sent.
    is_ending: AtomicBool,
    /// Whether events are held, and the loop's turns counted for that.
    is_held: AtomicBool,
}

struct State {
    /// The iterator of the content; `None` once it has ended.
    source: Option<Source>,
    /// The content's next event, while it is awaited.
    next: Option<Awaited>,
    /// The connection takes no more, or the function has not returned, until this is over.
    drain: Option<Awaited>,
    /// What follows then.
    then: Then,
    /// Why events could not be sent while the content waited, until it has ended.
    failure: Option<PyErr>,
    encoder: Py<EventEncoder>,
    sep: Py<PyString>,
    sink: Sink,
    gathering: Gathering,
    /// Whether what is gathered is to be held while the content waits.
    holds: bool,
    holding: Holding,
    /// Whether events are gathered: a subscription has done so.
    gathers: bool,
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
        head: &[u8],
    ) -> PyResult<Self> {
        Self::make(content, encoder, sep, Sink::connection(transport, flow, socket, head.to_vec()))
    }

    #[staticmethod]
    fn sending(
        content: &Bound<'_, PyAny>,
        encoder: Py<EventEncoder>,
        sep: Py<PyString>,
        send: Py<PyAny>,
    ) -> PyResult<Self> {
        Self::make(content, encoder, sep, Sink::function(send))
    }

    /// Whether nothing may be written now: the connection has not taken what was written before, or the content makes
    /// a step.
    #[getter]
    fn is_busy(&self, py: Python<'_>) -> PyResult<bool> {
        match self.state.try_lock() {
            Some(state) if state.drain.is_none() => state.sink.is_paused(py),
            _ => Ok(true),
        }
    }

    /// From now on, content that ignores its cancellation sends nothing more.
    fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Write bytes between two events. False if they have to be sent, or must wait.
    fn write(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<bool> {
        match self.state.try_lock() {
            Some(mut state) if state.drain.is_none() && state.sink.is_connection() => {
                state.sink.gather(|out| {
                    out.extend_from_slice(bytes);
                    Ok(())
                })?;
                state.sink.flush(py).map(|_| true)
            }
            _ => Ok(false),
        }
    }

    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::go_on(slf, None)
    }

    #[pyo3(signature = (kind, value=None, trace=None))]
    fn throw(
        slf: &Bound<'_, Self>,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        trace: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        drop(trace);
        step::throw(kind, value, |error| Self::go_on(slf, Some(error)))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let mut state = self.lock()?;
        state.source = None;
        state.then = Then::Step;
        let awaited = [state.drain.take(), state.next.take()];
        drop(state);
        awaited.into_iter().flatten().try_for_each(|awaited| awaited.close(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        visit.call(state.source.as_ref().map(Source::object))?;
        for awaited in [&state.drain, &state.next].into_iter().flatten() {
            visit.call(awaited.object())?;
        }
        if let Then::Wait(on) = &state.then {
            visit.call(on)?;
        }
        state.sink.traverse(&visit)
    }

    fn __clear__(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        let state = &mut *state;
        state.source = None;
        state.next = None;
        state.drain = None;
        state.then = Then::Step;
    }
}

impl Pump {
    fn make(
        content: &Bound<'_, PyAny>,
        encoder: Py<EventEncoder>,
        sep: Py<PyString>,
        sink: Sink,
    ) -> PyResult<Self> {
        let state = State {
            gathers: !content.is_instance_of::<PySubscription>(),
            source: Some(Source::new(content)?),
            next: None,
            drain: None,
            then: Then::Step,
            failure: None,
            encoder,
            sep,
            sink,
            gathering: Gathering::new(),
            holds: false,
            holding: Holding::default(),
        };
        Ok(Self { state: Mutex::new(state), is_ending: false.into(), is_held: false.into() })
    }

    fn lock(&self) -> PyResult<MutexGuard<'_, State>> {
        self.state.try_lock().ok_or_else(|| PyRuntimeError::new_err("the pump makes a step already"))
    }

    fn go_on(slf: &Bound<'_, Self>, thrown: Option<PyErr>) -> PyResult<Option<Py<PyAny>>> {
        let pump = slf.get();
        let mut state = pump.lock()?;
        let on = state.advance(slf.py(), thrown, &pump.is_ending)?;
        let holds = std::mem::take(&mut state.holds);
        drop(state);
        if holds && !pump.is_held.load(Ordering::Relaxed) {
            hold(slf.as_any(), hold_on)?;
            pump.is_held.store(true, Ordering::Relaxed);
        }
        Ok(on)
    }
}

impl State {
    /// Go on until the task must wait, and return what for, or `None` at the content's end. An exception that is
    /// `thrown` goes to whatever is awaited.
    fn advance(
        &mut self,
        py: Python<'_>,
        mut thrown: Option<PyErr>,
        is_ending: &AtomicBool,
    ) -> PyResult<Option<Py<PyAny>>> {
        loop {
            let flow = match &self.drain {
                Some(drain) => match drain.step(py, thrown.take()) {
                    Ok(Step::Waits(on)) => Flow::Wait(on),
                    Ok(Step::Done(_)) => self.drained(py, Ok(()))?,
                    Err(error) => self.drained(py, Err(error))?,
                },
                None => self.step(py, thrown.take(), is_ending)?,
            };
            match flow {
                Flow::Wait(on) => return Ok(Some(on)),
                Flow::Step(error) => thrown = error,
                Flow::End => return Ok(None),
            }
        }
    }

    /// What was written is out, or could not be sent.
    fn drained(&mut self, py: Python<'_>, outcome: PyResult<()>) -> PyResult<Flow> {
        self.drain = None;
        match (std::mem::replace(&mut self.then, Then::Step), outcome) {
            (Then::Wait(on), Err(error)) => self.cancel_content(py, error, on),
            (_, Err(error)) => Err(error),
            (Then::Step, _) => Ok(Flow::Step(None)),
            // A bare yield: the task goes on in the loop's next turn.
            (Then::Turn, _) => Ok(Flow::Wait(py.None())),
            (Then::Wait(on), _) => Ok(Flow::Wait(on)),
            (Then::End(ended), _) => ended.map(|()| Flow::End),
        }
    }

    /// Take the content one step further.
    fn step(&mut self, py: Python<'_>, thrown: Option<PyErr>, is_ending: &AtomicBool) -> PyResult<Flow> {
        if self.next.is_none() {
            if let Some(error) = thrown {
                return Err(error);
            }
            let Some(source) = &mut self.source else {
                return Err(PyRuntimeError::new_err("the pump has ended"));
            };
            match source.next(py) {
                Ok(next) => self.next = Some(next),
                Err(error) => {
                    self.source = None;
                    return self.ended(py, error);
                }
            }
        }
        let Some(next) = &self.next else { return Ok(Flow::Step(None)) };
        match next.step(py, thrown) {
            Ok(Step::Waits(on)) => self.waits(py, on),
            Ok(Step::Done(item)) => {
                self.next = None;
                let turn = self.take(item.bind(py), is_ending.load(Ordering::Relaxed))?;
                Ok(if turn { Flow::Wait(py.None()) } else { Flow::Step(None) })
            }
            Err(error) => {
                self.next = None;
                self.source = None;
                self.ended(py, error)
            }
        }
    }

    /// The content waits for `on`: write what is gathered, unless more is likely to follow soon.
    fn waits(&mut self, py: Python<'_>, on: Py<PyAny>) -> PyResult<Flow> {
        let is_turn = on.is_none(py);
        let waits = self.gathers && self.gathering.waits(Instant::now());
        if waits && is_turn {
            self.holding.begin();
            return Ok(Flow::Wait(on));
        }
        // A function that sends would have to be awaited, by the task that waits for the content.
        if waits && self.sink.is_connection() && (self.gathering.is_empty() || self.holding.may_begin()) {
            self.holds = !self.gathering.is_empty();
            self.holding.begin();
            return Ok(Flow::Wait(on));
        }
        self.gathering.begin_anew();
        match self.sink.flush(py) {
            Ok(None) => Ok(Flow::Wait(on)),
            Ok(sent) => {
                (self.drain, self.then) = (sent, Then::Wait(on));
                Ok(Flow::Step(None))
            }
            Err(error) => self.cancel_content(py, error, on),
        }
    }

    /// Another turn of the loop has begun while events are held: write them, unless the content is likely to go on
    /// soon. Whether they are held on.
    fn hold_on(&mut self, py: Python<'_>, turn: u64, now: Instant) -> bool {
        if self.gathering.is_young(now) && self.holding.is_likely(turn) {
            return true;
        }
        if !self.gathering.is_empty() {
            self.gathering.begin_anew();
            if let Err(error) = self.sink.flush(py) {
                self.failure = Some(error);
            }
        }
        false
    }

    /// The content has ended, by this error.
    fn ended(&mut self, py: Python<'_>, error: PyErr) -> PyResult<Flow> {
        let in_order = error.is_instance_of::<PyStopAsyncIteration>(py);
        if let Some(failure) = self.failure.take() {
            if !in_order && !error.is_instance_of::<CancelledError>(py) {
                failure.value(py).setattr(intern!(py, "__context__"), error.value(py))?;
            }
            return Err(failure);
        }
        let outcome = if in_order { Ok(()) } else { Err(error) };
        match self.sink.flush(py)? {
            None => outcome.map(|()| Flow::End),
            sent => {
                (self.drain, self.then) = (sent, Then::End(outcome));
                Ok(Flow::Step(None))
            }
        }
    }

    /// Cancel content that waits for `on`, because of an error while its events were sent: its own cancellation,
    /// or a failure, which is raised once the content has ended.
    ///
    /// As when a task is cancelled, what the content waits for is cancelled first, if it can be: the task then has
    /// to wait for that. Otherwise the cancellation is thrown into the content.
    fn cancel_content(&mut self, py: Python<'_>, error: PyErr, on: Py<PyAny>) -> PyResult<Flow> {
        let cancelled = if error.is_instance_of::<CancelledError>(py) {
            error
        } else {
            self.failure = Some(error);
            CancelledError::new_err(())
        };
        match on.bind(py).getattr(intern!(py, "cancel")) {
            Ok(cancel) if cancel.call0()?.is_truthy()? => Ok(Flow::Wait(on)),
            _ => Ok(Flow::Step(Some(cancelled))),
        }
    }

    /// Encode an event, and write or gather it. True when other tasks should have a turn.
    fn take(&mut self, item: &Bound<'_, PyAny>, is_ending: bool) -> PyResult<bool> {
        let py = item.py();
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if is_ending {
            return self.break_off(py, CancelledError::new_err(()));
        }
        let encoder = self.encoder.get();
        if let Err(error) = self.sink.gather(|out| encoder.append(item, self.sep.bind(py), out)) {
            return self.break_off(py, error);
        }
        let now = Instant::now();
        if self.gathers && self.sink.gathered() < WRITE && self.gathering.came(now) {
            return Ok(false);
        }
        let others_had_a_turn = self.gathering.wrote(now);
        self.flush(py)?;
        if self.drain.is_none() {
            return Ok(!others_had_a_turn);
        }
        self.then = if others_had_a_turn { Then::Step } else { Then::Turn };
        Ok(false)
    }

    /// End by an error, behind the events that came before.
    fn break_off(&mut self, py: Python<'_>, error: PyErr) -> PyResult<bool> {
        self.drain = self.sink.flush(py)?;
        if self.drain.is_none() {
            return Err(error);
        }
        self.then = Then::End(Err(error));
        Ok(false)
    }

    fn flush(&mut self, py: Python<'_>) -> PyResult<()> {
        self.drain = self.sink.flush(py)?;
        if self.drain.is_none() {
            self.drain = self.sink.drained(py)?;
        }
        Ok(())
    }
}

fn hold_on(pump: &Bound<'_, PyAny>, turn: u64, now: Instant) -> bool {
    let Ok(held) = pump.cast::<Pump>().map(Bound::get) else { return false };
    // Content that makes a step waits no more: it decides anew when it does.
    let is_held = held.state.try_lock().is_some_and(|mut state| state.hold_on(pump.py(), turn, now));
    held.is_held.store(is_held, Ordering::Relaxed);
    is_held
}
