//! Events that are held while their content waits.
//!
//! Content that another task feeds, through a queue for instance, waits before each event, and goes on a turn or two
//! of the event loop later. So its events may be held over such waits: until the loop has made [`TURNS`] turns without
//! the content. That takes some microseconds when the loop has nothing else to do.

use std::cell::RefCell;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{intern, wrap_pyfunction};

/// How many turns of the loop content may need to go on: one for the task that feeds it, one for its own, and one
/// because the order of tasks within a turn is not known.
const TURNS: u64 = 3;
/// Another turn of the loop has begun: write what a pump holds, unless it can wait. Whether it is held on.
pub type HoldOn = fn(&Bound<'_, PyAny>, u64, Instant) -> bool;

/// For how many waits nothing is held after content that did not go on by then.
const SKIPPED: u8 = 16;

thread_local! {
    /// The pumps of the thread's event loop whose events are held.
    static HELD: RefCell<Held> = const { RefCell::new(Held { event_loop: None, pumps: Vec::new(), turn: 0 }) };
}

struct Held {
    /// The loop that calls [`turn`]; `None` while nothing is held.
    event_loop: Option<Py<PyAny>>,
    pumps: Vec<(Py<PyAny>, HoldOn)>,
    /// Counts the loop's turns while something is held.
    turn: u64,
}

/// What one pump knows of it.
#[derive(Default)]
pub struct Holding {
    /// The turn in which the content began to wait, while the pump is among those of the thread.
    since: Option<u64>,
    /// How many waits pass before events are held again.
    skips: u8,
}

impl Holding {
    /// Whether events may be held over the wait that begins.
    pub fn may_begin(&mut self) -> bool {
        let may = self.skips == 0;
        self.skips = self.skips.saturating_sub(1);
        may
    }

    /// The content went on, and waits again for no more than its next turn.
    pub fn renew(&mut self) {
        if let Some(since) = &mut self.since {
            *since = HELD.with_borrow(|held| held.turn);
        }
    }

    /// Whether the content may still go on soon, in this turn of the loop.
    pub fn is_likely(&mut self, turn: u64) -> bool {
        let is_likely = self.since.is_some_and(|since| turn - since < TURNS);
        if !is_likely {
            self.skips = SKIPPED;
        }
        is_likely
    }

    /// Nothing is held any more.
    pub fn end(&mut self) {
        self.since = None;
    }
}

/// The content of `pump` waits, and what is gathered is held from now on.
pub fn hold(pump: &Bound<'_, PyAny>, holding: &mut Holding, hold_on: HoldOn) -> PyResult<()> {
    let py = pump.py();
    HELD.with_borrow_mut(|held| {
        if holding.since.replace(held.turn).is_some() {
            return Ok(());
        }
        let event_loop = running_loop(py)?;
        if held.event_loop.as_ref().is_none_or(|known| !known.is(&event_loop)) {
            // A loop that was closed before its next turn writes nothing any more.
            held.pumps.clear();
            call_soon(&event_loop)?;
            held.event_loop = Some(event_loop.unbind());
        }
        held.pumps.push((pump.clone().unbind(), hold_on));
        Ok(())
    })
}

/// Called in each turn of the loop while something is held.
#[pyfunction]
fn turn(py: Python<'_>) -> PyResult<()> {
    let (turn, mut pumps) = HELD.with_borrow_mut(|held| {
        held.turn += 1;
        (held.turn, std::mem::take(&mut held.pumps))
    });
    let now = Instant::now();
    // Writing calls Python, so the list is not borrowed meanwhile.
    pumps.retain(|(pump, hold_on)| hold_on(pump.bind(py), turn, now));
    HELD.with_borrow_mut(|held| {
        pumps.append(&mut held.pumps);
        held.pumps = pumps;
        if held.pumps.is_empty() {
            held.event_loop = None;
        }
        held.event_loop.as_ref().map_or(Ok(()), |event_loop| call_soon(event_loop.bind(py)))
    })
}

fn call_soon(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    static TURN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = event_loop.py();
    let turn =
        TURN.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(turn, py)?.into_any().unbind()))?;
    event_loop.call_method1(intern!(py, "call_soon"), (turn,)).map(drop)
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0()
}
