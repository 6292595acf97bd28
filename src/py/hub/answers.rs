//! The outcomes of publications for which tasks of an event loop wait. The broker's thread notes which are known, and
//! rings the bell of the loop's reader; the loop's own thread completes the futures. No third thread is woken.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use rustc_hash::FxHashMap;

use crate::ids::EventId;
use crate::outcome::{Sent, Waiting};
use crate::py::values::exceptions::from_failure;
use crate::reader::Reader;
use crate::sync::Mutex;

/// Finds what completes the futures of an event loop.
pub trait FindAnswers: Send + Sync {
    /// `None` when the loop has no reader.
    fn find(&self, event_loop: &Bound<'_, PyAny>) -> Option<Arc<Answers>>;
}

/// What becomes of a future.
pub enum Asked {
    /// It is completed when the outcome is known.
    Later,
    /// The outcome is known already.
    Now(Sent),
    /// Nobody will complete it: the reader has been stopped.
    Never(Waiting),
}

/// A future, and what it waits for.
struct Open {
    future: Py<PyAny>,
    waiting: Waiting,
}

#[derive(Default)]
struct State {
    /// By number.
    open: FxHashMap<u64, Open>,
    last: u64,
    is_closed: bool,
}

/// The futures of an event loop that wait for outcomes.
pub struct Answers {
    state: Mutex<State>,
    known: Arc<Known>,
}

/// The numbers of those whose outcome is known.
struct Known {
    numbers: Mutex<Vec<u64>>,
    reader: Arc<Reader>,
}

/// Called when the outcome of one is known.
struct Number {
    number: u64,
    known: Arc<Known>,
}

impl Wake for Number {
    fn wake(self: Arc<Self>) {
        self.known.numbers.lock().push(self.number);
        self.known.reader.bell.ring();
    }
}

impl Answers {
    /// The futures of this reader's loop.
    pub fn new(reader: Arc<Reader>) -> Self {
        Self { state: Mutex::default(), known: Arc::new(Known { numbers: Mutex::default(), reader }) }
    }

    /// Complete a future of this loop, later, with an outcome.
    pub fn ask(&self, future: Py<PyAny>, mut waiting: Waiting) -> Asked {
        let mut state = self.state.lock();
        if state.is_closed {
            drop(state);
            return Asked::Never(waiting);
        }
        state.last += 1;
        let number = state.last;
        let waker = Waker::from(Arc::new(Number { number, known: self.known.clone() }));
        if let Poll::Ready(sent) = Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)) {
            drop(state);
            return Asked::Now(sent);
        }
        state.open.insert(number, Open { future, waiting });
        Asked::Later
    }

    /// Complete the futures whose outcome is known, on the loop's own thread, after the bell was heard.
    pub fn complete(&self, py: Python<'_>) {
        let numbers = std::mem::take(&mut *self.known.numbers.lock());
        for number in numbers {
            let found = self.state.lock().open.remove(&number);
            if let Some(Open { future, mut waiting }) = found
                && !is_done(future.bind(py))
                && let Poll::Ready(sent) =
                    Pin::new(&mut waiting).poll(&mut Context::from_waker(Waker::noop()))
            {
                // A future that is done by now belongs to a task that was cancelled.
                let _ = match published(py, &sent) {
                    Ok(id) => future.call_method1(py, intern!(py, "set_result"), (id,)),
                    Err(error) => future.call_method1(py, intern!(py, "set_exception"), (error,)),
                };
            }
        }
    }

    /// Take no more. Returns whether none waits.
    pub fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.open.is_empty()
    }

    /// Whether it was closed, and none waits any more.
    pub fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.is_closed && state.open.is_empty()
    }

    /// The loop is closed: drop its futures.
    pub fn clear(&self) {
        self.close();
        let old = std::mem::take(&mut self.state.lock().open);
        drop(old);
    }

    /// For Python's garbage collector, which calls while no thread runs that could hold the lock.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        state.open.values().try_for_each(|open| visit.call(&open.future))
    }
}

fn is_done(future: &Bound<'_, PyAny>) -> bool {
    let done = future.call_method0(intern!(future.py(), "done"));
    done.and_then(|done| done.is_truthy()).unwrap_or(true)
}

/// The id of an event that was published, or the exception.
pub fn published(py: Python<'_>, sent: &Sent) -> PyResult<Option<Py<PyString>>> {
    match sent {
        Ok(id) => Ok(text(py, *id)),
        Err(failure) => Err(from_failure(py, failure)),
    }
}

/// An id for Python.
pub fn text(py: Python<'_>, id: Option<EventId>) -> Option<Py<PyString>> {
    id.map(|id| PyString::new(py, &id.to_string()).unbind())
}
