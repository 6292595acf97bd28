//! Events that are held while their content waits.
//!
//! Content that another task feeds, through a queue for instance, waits before each event, and goes on a turn or two
//! of the event loop later. So its events may be held over such waits: until the loop has made [`TURNS`] turns without
//! the content. That takes some microseconds when the loop has nothing else to do.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{intern, wrap_pyfunction};

/// How many turns of the loop content may need to go on: one for the task that feeds it, one for its own, and one
/// because the order of tasks within a turn is not known.
const TURNS: u64 = 3;
/// For how many waits nothing is held after content that did not go on by then.
const SKIPPED: u8 = 16;

/// Another turn of the loop has begun: write what a pump holds, unless it can wait. Whether it is held on.
pub type HoldOn = fn(&Bound<'_, PyAny>, u64, Instant) -> bool;

thread_local! {
    /// Counts the turns in which something was held.
    static TURN: Cell<u64> = const { Cell::new(0) };
    /// The pumps whose events are held. A thread nearly always has one event loop, but may run several by turns.
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

struct Held {
    /// The loop that calls [`turn`].
    event_loop: Py<PyAny>,
    pumps: Vec<(Py<PyAny>, HoldOn)>,
}

/// What one pump knows of it.
#[derive(Default)]
pub struct Holding {
    /// The turn in which the content began to wait.
    since: u64,
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

    /// The content waits from now on.
    pub fn begin(&mut self) {
        self.since = TURN.get();
    }

    /// Whether the content may still go on soon, in this turn of the loop.
    pub fn is_likely(&mut self, turn: u64) -> bool {
        let is_likely = turn - self.since < TURNS;
        if !is_likely {
            self.skips = SKIPPED;
        }
        is_likely
    }
}

/// The content of `pump` waits, and what is gathered is held from now on. `hold_on` is called in each turn of the loop,
/// until it returns false.
pub fn hold(pump: &Bound<'_, PyAny>, hold_on: HoldOn) -> PyResult<()> {
    let event_loop = running_loop(pump.py())?;
    let mut held = Some((pump.clone().unbind(), hold_on));
    let is_empty = HELD.with_borrow_mut(|all| {
        if let Some(at) = position(all, &event_loop) {
            all[at].pumps.extend(held.take());
        }
        all.is_empty()
    });
    let Some(held) = held else { return Ok(()) };
    if !is_empty {
        forget_closed_loops(pump.py())?;
    }
    call_soon(&event_loop)?;
    let held = Held { event_loop: event_loop.unbind(), pumps: vec![held] };
    HELD.with_borrow_mut(|all| all.push(held));
    Ok(())
}

/// A loop that was closed before its next turn writes nothing any more.
fn forget_closed_loops(py: Python<'_>) -> PyResult<()> {
    // What is dropped may be the last reference to content, whose end runs Python: nothing is borrowed meanwhile.
    let mut open = Vec::new();
    for held in HELD.take() {
        if !held.event_loop.bind(py).call_method0(intern!(py, "is_closed"))?.is_truthy()? {
            open.push(held);
        }
    }
    HELD.with_borrow_mut(|all| all.append(&mut open));
    Ok(())
}

/// Called in each turn of the loop while something is held.
#[pyfunction]
fn turn(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    let turn = TURN.get() + 1;
    TURN.set(turn);
    let pumps =
        HELD.with_borrow_mut(|all| position(all, event_loop).map(|at| std::mem::take(&mut all[at].pumps)));
    let Some(mut pumps) = pumps else { return Ok(()) };
    let now = Instant::now();
    // Writing calls Python, so the list is not borrowed meanwhile.
    pumps.retain(|(pump, hold_on)| hold_on(pump.bind(event_loop.py()), turn, now));
    let goes_on = HELD.with_borrow_mut(|all| {
        let Some(at) = position(all, event_loop) else { return false };
        all[at].pumps.append(&mut pumps);
        let goes_on = !all[at].pumps.is_empty();
        if !goes_on {
            all.swap_remove(at);
        }
        goes_on
    });
    if goes_on { call_soon(event_loop) } else { Ok(()) }
}

fn position(all: &[Held], event_loop: &Bound<'_, PyAny>) -> Option<usize> {
    all.iter().position(|held| held.event_loop.is(event_loop))
}

fn call_soon(event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    static CALLED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = event_loop.py();
    let turn =
        CALLED.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(turn, py)?.into_any().unbind()))?;
    event_loop.call_method1(intern!(py, "call_soon"), (turn, event_loop)).map(drop)
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET.import(py, "asyncio", "get_running_loop")?.call0()
}
