//! A reader of the log on an asyncio event loop: woken by a signal, it drains on the loop's own thread and
//! resumes the consumers that wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::answers::Answers;
use super::chunks::Chunks;
use super::gathering::{Gathering, Part, Then};
use super::loop_clients::{LoopClients, Wait};
use super::reactors::{Reactors, Reports};
use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::py::process::exit;
use crate::py::process::fork::Process;
use crate::py::process::signal::Signal;
use crate::reader::{Effects, Reader};
use crate::sync::Mutex;
use crate::waker::Wake;

/// How many consumers are resumed in one turn of the loop. Resumed all at once, each would have a handle of the loop
/// at the same time: with thousands, Python's garbage collector takes these for objects that stay, and
/// pauses the loop for hundreds of milliseconds. Other tasks also get their turns in between.
/// Without a GIL a collection stops the threads of all loops, and few handles at a time matter more. The order of the
/// turns needs no GIL: all of them run on the loop's own thread, and the locks are for a thread that closes the hub.
const RESUMED: usize = 128;

/// Reports the ends of streams to the application, by a call on `event_loop`. Implemented where handles to
/// subscribers are made.
pub trait ReportEnds: Send + Sync {
    /// A stream of this loop ended.
    fn ended(
        &self,
        reader: &Bound<'_, LoopReader>,
        event_loop: &Bound<'_, PyAny>,
        identity: &Arc<Identity>,
        reason: &CloseReason,
    ) -> PyResult<()>;

    /// A stream ended that was handed off on this loop.
    fn handed_off_ended(
        &self,
        reactors: &Arc<Reactors>,
        event_loop: &Bound<'_, PyAny>,
        identity: &Arc<Identity>,
        reason: &CloseReason,
    ) -> PyResult<()>;
}

/// Consumers that are being resumed, some in each turn of the loop.
#[derive(Default)]
struct Resuming {
    waiters: std::vec::IntoIter<Py<PyAny>>,
    /// Whether some of them have yet to get their turn.
    goes_on: bool,
    /// Whether a drain was postponed until then, so that no consumer falls behind that was not resumed yet.
    owes_drain: bool,
}

/// The shortest time between two measurements: each costs a call of the loop.
const MEASURED: Duration = Duration::from_millis(1);

/// A batch whose time from publishing to writing is being measured.
#[derive(Default)]
struct Measuring {
    published: Option<Duration>,
    last: Duration,
}

#[derive(Default)]
struct Timer {
    handle: Option<Py<PyAny>>,
    at: Option<Duration>,
}

/// The waking end, for the core.
struct SignalWaker(Arc<Signal>);

impl Wake for SignalWaker {
    fn wake(&self) {
        self.0.set();
    }
}

/// One event loop's reader. Private: the loop calls it.
#[pyclass(frozen, weakref, module = "sse_hub._core")]
pub struct LoopReader {
    pub hub: Arc<Hub>,
    pub reader: Arc<Reader>,
    pub clients: LoopClients,
    pub chunks: Chunks,
    /// Publications that tasks of the loop await.
    pub answers: Arc<Answers>,
    /// Ends of streams that were handed off on this loop.
    pub reports: Arc<Reports>,
    pub(super) application: Box<dyn ReportEnds>,
    event_loop: Py<PyWeakrefReference>,
    signal: Arc<Signal>,
    process: Process,
    /// Consumers that another thread resumes, by key.
    resume: Mutex<Vec<usize>>,
    resuming: Mutex<Resuming>,
    timer: Mutex<Timer>,
    measuring: Mutex<Measuring>,
    /// Events of this loop's runs for which readers have yet to be woken.
    gathering: Mutex<Gathering>,
}

impl LoopReader {
    /// A reader for `event_loop`, watched by it.
    pub fn start<'py>(
        hub: Arc<Hub>,
        application: Box<dyn ReportEnds>,
        event_loop: &Bound<'py, PyAny>,
        is_here: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = event_loop.py();
        let signal = Arc::new(Signal::new()?);
        let reader = hub.add_reader(Box::new(SignalWaker(signal.clone())));
        let reports = Arc::new(Reports::new(reader.clone()));
        let answers = Arc::new(Answers::new(reader.clone()));
        let this = Self {
            hub,
            reader,
            clients: LoopClients::default(),
            chunks: Chunks::default(),
            answers,
            reports,
            application,
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            signal,
            process: Process::current(),
            resume: Mutex::default(),
            resuming: Mutex::default(),
            timer: Mutex::default(),
            measuring: Mutex::default(),
            gathering: Mutex::default(),
        };
        let this = Bound::new(py, this)?;
        this.get().signal.watch(event_loop, this.as_any(), is_here)?;
        Ok(this)
    }

    /// Whether it was made in this process: if not, none of its locks may be taken.
    pub fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    pub fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.bind(py).upgrade()
    }

    /// Whether the loop can still run.
    pub fn is_alive(&self, py: Python<'_>) -> bool {
        let closed = self.event_loop(py).map(|it| it.call_method0(intern!(py, "is_closed")));
        closed.is_some_and(|closed| closed.and_then(|closed| closed.is_truthy()).is_ok_and(|closed| !closed))
    }

    /// A future that is done when entries wait for this subscriber. `None` if another task has waited since `last`.
    pub fn wait(
        &self,
        py: Python<'_>,
        identity: &Identity,
        last: Wait,
    ) -> PyResult<Option<(Py<PyAny>, Wait)>> {
        let Some(event_loop) = self.event_loop(py) else {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("the subscription's event loop is gone"));
        };
        let future = event_loop.call_method0(intern!(py, "create_future"))?.unbind();
        let wait = self.clients.wait(identity, last, future.clone_ref(py));
        Ok(wait.map(|wait| (future, wait)))
    }

    /// Resume a consumer from any thread: on its loop's next turn.
    pub fn resume_soon(&self, key: usize) {
        self.resume.lock().push(key);
        self.reader.bell.ring();
    }

    /// The loop is closed: drop the Python objects of its subscribers. Their consumers' tasks
    /// wait on these futures, and hold the subscriptions in turn.
    pub fn forget_clients(&self) {
        self.clients.clear();
        let old = std::mem::take(&mut *self.resuming.lock());
        drop(old);
        // Its handle holds this object.
        let timer = std::mem::take(&mut *self.timer.lock());
        drop(timer);
        self.answers.clear();
        self.reports.release();
    }

    /// Tick at `next`, on the loop's clock.
    fn schedule(slf: &Bound<'_, Self>, next: Option<Duration>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(next) = next.filter(|_| !this.hub.clock.is_manual()) else { return Ok(()) };
        if this.timer.lock().at.is_some_and(|at| at <= next) {
            return Ok(());
        }
        let Some(event_loop) = this.event_loop(py) else { return Ok(()) };
        let delay = in_timer_ticks(next.saturating_sub(this.hub.clock.now())).as_secs_f64();
        let tick = slf.getattr(intern!(py, "_tick"))?;
        let handle = event_loop.call_method1(intern!(py, "call_later"), (delay, tick))?.unbind();
        let timer = Timer { handle: Some(handle), at: Some(next) };
        let old = std::mem::replace(&mut *this.timer.lock(), timer);
        if let Some(handle) = old.handle {
            handle.call_method0(py, intern!(py, "cancel"))?;
        }
        Ok(())
    }

    /// Deliver a batch, and do what is due; true when more is waiting.
    fn drain(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if !this.is_ours() {
            return Ok(false);
        }
        {
            let mut resuming = this.resuming.lock();
            resuming.owes_drain = resuming.goes_on;
            if resuming.goes_on {
                return Ok(false);
            }
        }
        let _inside = exit::enter(py);
        let mut effects = Effects::default();
        let drained = this.hub.drain(&this.reader, &mut effects);
        this.answers.complete(py);
        effects.resume.append(&mut this.resume.lock());
        let waiters = this.clients.wake(py, &effects.resume);
        if let Some(published) = drained.published.filter(|_| !waiters.is_empty()) {
            this.measuring.lock().published.get_or_insert(published);
        }
        this.resuming.lock().waiters = waiters.into_iter();
        Self::resume(slf, RESUMED)?;
        for identity in &effects.progress {
            if let Some((unsent, acknowledged)) = this.clients.progress(py, identity) {
                this.reader.report_unsent(identity, unsent, acknowledged, this.hub.clock.now());
            }
        }
        for (identity, reason) in &effects.closed {
            Self::announce(slf, identity, reason)?;
        }
        for (identity, reason) in this.reports.take() {
            this.announce_handed_off(py, &identity, &reason)?;
        }
        if drained.more {
            this.reader.bell.ring();
        }
        Self::schedule(slf, drained.next.soonest())?;
        Ok(drained.more)
    }

    /// Resume some of the consumers; the remaining ones in the loop's next turn.
    fn resume(slf: &Bound<'_, Self>, count: usize) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let _inside = exit::enter(py);
        let (waiters, goes_on) = {
            let mut resuming = this.resuming.lock();
            let waiters: Vec<_> = resuming.waiters.by_ref().take(count).collect();
            // Also after the last ones: they have their turn first.
            resuming.goes_on = resuming.waiters.len() > 0 || (resuming.goes_on && !waiters.is_empty());
            (waiters, resuming.goes_on)
        };
        for waiter in waiters {
            // A future that was cancelled wakes no task.
            let _ = waiter.call_method1(py, intern!(py, "set_result"), (py.None(),));
        }
        if goes_on && let Some(event_loop) = this.event_loop(py) {
            let resume = slf.getattr(intern!(py, "_resume"))?;
            event_loop.call_method1(intern!(py, "call_soon"), (resume,))?;
        } else if !goes_on {
            Self::measure(slf)?;
        }
        Ok(())
    }

    /// Measure the batch when the consumers that were resumed last have had their turn, and so have written it.
    fn measure(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let now = this.hub.clock.now();
        {
            let mut measuring = this.measuring.lock();
            if measuring.published.is_none() {
                return Ok(());
            }
            if now.saturating_sub(measuring.last) < MEASURED {
                measuring.published = None;
                return Ok(());
            }
            measuring.last = now;
        }
        if let Some(event_loop) = this.event_loop(py) {
            let written = slf.getattr(intern!(py, "_written"))?;
            event_loop.call_method1(intern!(py, "call_soon"), (written,))?;
        }
        Ok(())
    }

    /// Whether an event of a run of this loop need not wake the readers at once.
    pub fn gathers(&self, now: Instant, part: &mut Part) -> bool {
        self.gathering.lock().takes(now, part)
    }

    /// An event of a run of this loop was published, and `is_left` says whether there are readers that were not woken.
    pub fn gather(
        slf: &Bound<'_, Self>,
        now: Instant,
        bytes: usize,
        is_left: bool,
        part: &mut Part,
    ) -> PyResult<()> {
        let then = {
            let mut gathering = slf.get().gathering.lock();
            if !is_left {
                gathering.woke(now);
                return Ok(());
            }
            gathering.gather(now, bytes, part)
        };
        Self::follow(slf, &then)
    }

    fn follow(slf: &Bound<'_, Self>, then: &Then) -> PyResult<()> {
        match then {
            Then::Wake => slf.get().hub.ring_waiting(),
            Then::Turn => {
                let py = slf.py();
                if let Some(event_loop) = slf.get().event_loop(py) {
                    let turn = slf.getattr(intern!(py, "_turn"))?;
                    event_loop.call_method1(intern!(py, "call_soon"), (turn,))?;
                }
            }
            Then::Nothing => {}
        }
        Ok(())
    }

    /// Watch the signal no more.
    fn unwatch(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        match this.event_loop(slf.py()).filter(|_| this.is_ours()) {
            Some(event_loop) => this.signal.unwatch(&event_loop),
            None => Ok(()),
        }
    }

    /// Resume all that are left, now.
    fn resume_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::resume(slf, usize::MAX)?;
        slf.get().resuming.lock().goes_on = false;
        Ok(())
    }
}

/// How many milliseconds a loop's timer may be early. uvloop counts whole milliseconds: it rounds the delay, and the
/// time it counts from down. On Windows asyncio's clock goes in steps of 15.6 ms, and a timer is due a step before.
const EARLY: u64 = if cfg!(windows) { 32 } else { 2 };

/// A delay after which a loop's timer is not early. An early timer finds nothing due and is set again and again,
/// in the end without any delay.
fn in_timer_ticks(delay: Duration) -> Duration {
    Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).saturating_add(EARLY))
}

#[pymethods]
impl LoopReader {
    /// Without the objects of handed-off streams: they live as long as their streams, whatever else is
    /// gone.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.clients.traverse(&visit)?;
        self.answers.traverse(&visit)?;
        if let Some(resuming) = self.resuming.try_lock() {
            resuming.waiters.as_slice().iter().try_for_each(|waiter| visit.call(waiter))?;
        }
        match self.timer.try_lock() {
            Some(timer) => visit.call(&timer.handle),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        if self.is_ours() {
            self.forget_clients();
        }
    }

    /// The loop was woken: something was published, or a subscriber changed.
    fn _drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().signal.clear();
        Self::drain(slf)?;
        if slf.get().answers.is_over() { Self::unwatch(slf) } else { Ok(()) }
    }

    /// Go on resuming consumers, and after all have had their turn, run a postponed drain.
    fn _resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::resume(slf, RESUMED)?;
        let owes_drain = {
            let mut resuming = slf.get().resuming.lock();
            !resuming.goes_on && std::mem::take(&mut resuming.owes_drain)
        };
        if owes_drain { Self::drain(slf).map(drop) } else { Ok(()) }
    }

    /// The consumers of a batch have written it.
    fn _written(&self) {
        if let Some(published) = self.measuring.lock().published.take() {
            self.hub.written(published);
        }
    }

    /// A turn of the loop begins while events of its runs wait.
    fn _turn(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().is_ours() {
            return Ok(());
        }
        let then = slf.get().gathering.lock().turn(Instant::now());
        Self::follow(slf, &then)
    }

    /// A deadline came.
    fn _tick(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let old = std::mem::take(&mut *this.timer.lock());
        drop(old);
        // Quiet topics keep no chunk in memory.
        this.chunks.clear();
        Self::drain(slf).map(drop)
    }

    /// Stop watching, on the loop's own thread, before the descriptor closes.
    fn _stop(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        // After a close that did not wait, or on a loop that was blocked, the last events and
        // the ends of the streams are still in the log.
        Self::resume_all(slf)?;
        while Self::drain(slf)? {
            Self::resume_all(slf)?;
        }
        Self::resume_all(slf)?;
        this.reports.release();
        let timer = std::mem::take(&mut *this.timer.lock());
        if let Some(handle) = timer.handle {
            handle.call_method0(py, intern!(py, "cancel"))?;
        }
        // What was published before the close has its outcome later.
        if this.answers.close() { Self::unwatch(slf) } else { Ok(()) }
    }
}
