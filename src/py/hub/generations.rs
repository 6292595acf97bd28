//! The generations of a hub: a program makes `Hub` once, at import, and uses it in a forked child and after a
//! close alike. Behind it is one core hub at a time, with the readers of its loops, its reactors and its
//! broker; the next use after a close, or in a forked child, makes the next one, with a new epoch.
//!
//! ```text
//! open -- finish_close -----> closed -- next use --> open, a new generation
//!   '---- fork, in the child: left alone, never dropped (its locks may be held by threads that do not exist)
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::answers::{Answers, FindAnswers};
use super::inherited::Inherited;
use super::loop_reader::{LoopReader, ReportEnds};
use super::publication::PyPublication;
use super::reactors::Reactors;
use super::running_loop::running_loop;
use crate::broker::Broker;
use crate::broker::letter::{Fence, Letter, To};
use crate::clock::Clock;
use crate::config::Config;
use crate::ending::Ending;
use crate::error::Error;
use crate::frame::Draft;
use crate::history::Retention;
use crate::hub::Hub;
use crate::py::brokers::link::Link;
use crate::py::process::exit;
use crate::py::process::fork::Process;
use crate::py::values::exceptions::{OrRaise, while_dropping};
use crate::sync::Mutex;
use crate::topic::{Topic, TopicId, TopicPattern};
use crate::trace::TraceParent;

/// A core hub, from its start to its close or the fork that leaves it behind.
pub(super) struct Generation {
    pub(super) hub: Arc<Hub>,
    process: Process,
    /// Set once, by the thread that finishes the close. Acquire and release: the thread that makes the next generation
    /// sees all that the close did before. Where a broker or reactors start, it is read under their lock, which
    /// `finish_close` takes after it was set: they are not started, or found there and stopped.
    pub(super) closed: AtomicBool,
}

impl Generation {
    fn new(hub: Hub) -> Self {
        Self { hub: Arc::new(hub), process: Process::current(), closed: AtomicBool::new(false) }
    }

    fn is_open(&self) -> bool {
        self.process.is_current() && !self.closed.load(Ordering::Acquire)
    }
}

/// The options from which each generation is made.
pub struct Settings {
    pub name: String,
    pub config: Config,
    pub has_manual_clock: bool,
    /// How many reactor threads it starts.
    pub threads: usize,
    /// Its broker, if it has one.
    pub link: Option<Link>,
    /// Returns the `traceparent` of the active span, or None where there is none; `None` where events carry no trace.
    pub traceparent: Option<Py<PyAny>>,
}

/// A hub's generations, of which one is current.
pub struct Generations {
    settings: Settings,
    current: ArcSwap<Generation>,
    families: Mutex<Vec<(TopicPattern, Retention)>>,
    pub(super) readers: Mutex<Vec<Py<LoopReader>>>,
    pub(super) reactors: Mutex<Option<Arc<Reactors>>>,
    pub(super) broker: Mutex<Option<Arc<dyn Broker>>>,
    /// Brokers of closed generations whose threads may not have ended yet.
    pub(super) ending: Mutex<Vec<Arc<dyn Broker>>>,
    /// Relaxed: a callback that is registered while a stream ends may or may not be called for it.
    reports_disconnects: Arc<AtomicBool>,
    inherited: Inherited,
}

impl Generations {
    pub fn new(settings: Settings) -> Self {
        let first = Generation::new(make(&settings, &[]));
        Self {
            settings,
            current: ArcSwap::from_pointee(first),
            families: Mutex::default(),
            readers: Mutex::default(),
            reactors: Mutex::default(),
            broker: Mutex::default(),
            ending: Mutex::default(),
            reports_disconnects: Arc::default(),
            inherited: Inherited::default(),
        }
    }

    /// The trace that an event published here and now belongs to.
    pub fn traceparent(&self, py: Python<'_>) -> PyResult<Option<TraceParent>> {
        let Some(function) = &self.settings.traceparent else { return Ok(None) };
        let Some(text) = function.call0(py)?.extract::<Option<String>>(py)? else { return Ok(None) };
        match TraceParent::parse(text.as_bytes()) {
            None => Err(PyValueError::new_err(format!("{text:?} is no traceparent of version 00"))),
            trace => Ok(trace),
        }
    }

    /// The current hub; a new one if the last one was closed, or belongs to another process.
    pub fn hub(&self) -> Arc<Hub> {
        loop {
            let current = self.current.load();
            if current.is_open() {
                return current.hub.clone();
            }
            let old = Guard::into_inner(current);
            let next = Generation::new(make(&self.settings, &self.families.lock()));
            let replaced = self.current.compare_and_swap(&old, Arc::new(next));
            if Arc::ptr_eq(&old, &replaced) && !old.process.is_current() {
                self.leave_to_parent(old);
            }
        }
    }

    /// In a forked child: locks that it inherited may be held forever, so nothing inherited is touched or dropped.
    fn leave_to_parent(&self, inherited: Arc<Generation>) {
        if !self.has_broker() {
            self.inherited.note(&inherited.hub.counters);
        }
        std::mem::forget(inherited);
        let readers = std::mem::take(&mut *self.readers.lock());
        std::mem::forget(readers);
        let reactors = self.reactors.lock().take();
        std::mem::forget(reactors);
        std::mem::forget(self.broker.lock().take());
        std::mem::forget(std::mem::take(&mut *self.ending.lock()));
    }

    /// The current hub if it is open, for callers that must not start another one.
    pub fn open_hub(&self) -> Option<Arc<Hub>> {
        let current = self.current.load();
        current.is_open().then(|| current.hub.clone())
    }

    /// Whether this process made the current generation: a forked child has inherited it.
    pub(super) fn is_ours(&self) -> bool {
        self.current.load().process.is_current()
    }

    /// The current hub if it is open and has this epoch.
    pub(super) fn open_with_epoch(&self, epoch: &str) -> Option<Arc<Generation>> {
        let current = self.current.load_full();
        (current.is_open() && current.hub.epoch.as_str() == epoch).then_some(current)
    }

    /// Whether this is the current hub.
    pub fn is_current(&self, hub: &Arc<Hub>) -> bool {
        let current = self.current.load();
        current.is_open() && Arc::ptr_eq(&current.hub, hub)
    }

    /// Whether it has a broker, connected or not.
    pub fn has_broker(&self) -> bool {
        self.settings.link.is_some()
    }

    /// The current hub's broker, once it was started.
    pub fn broker(&self) -> Option<Arc<dyn Broker>> {
        self.broker.lock().clone()
    }

    /// Set the retention of a topic or a family of topics, in this generation and in all that follow.
    pub fn set_retention(&self, pattern: TopicPattern, retention: Retention) {
        self.hub().set_retention(&pattern, retention);
        let mut families = self.families.lock();
        families.retain(|(other, _)| *other != pattern);
        families.push((pattern, retention));
    }

    pub fn report_disconnects(&self) {
        self.reports_disconnects.store(true, Ordering::Relaxed);
    }

    /// Whether the ends of streams are reported to the application.
    pub fn reports_disconnects(&self) -> bool {
        self.reports_disconnects.load(Ordering::Relaxed)
    }

    /// The current hub, connected to its broker if it has one: publishing and subscribing need that.
    pub fn connected(self: &Arc<Self>, py: Python<'_>) -> PyResult<Arc<Hub>> {
        let hub = self.hub();
        let Some(link) = self.settings.link.as_ref().filter(|_| hub.broker().is_none()) else {
            return Ok(hub);
        };
        exit::watch_child(py)?;
        // Locked while it starts, which needs no Python: a close on another thread takes it out afterwards.
        let mut broker = self.broker.lock();
        if hub.broker().is_some() {
            return Ok(hub);
        }
        if !self.is_current(&hub) {
            drop(broker);
            return self.connected(py);
        }
        let owner = Arc::downgrade(self);
        let lagging = move |py: Python<'_>| {
            if let Some(owner) = owner.upgrade() {
                owner.forget_closed_loops(py);
            }
        };
        let started = link.start(&hub, Box::new(lagging)).map(|started| broker.replace(started));
        drop(broker); // Python makes the exception.
        if let Some(replaced) = started? {
            replaced.stop();
        }
        Ok(hub)
    }

    /// The event loops on which its publications may be awaited.
    pub fn loops(self: &Arc<Self>) -> Weak<dyn FindAnswers> {
        Arc::<Self>::downgrade(self)
    }

    /// Publish through the broker, or in this process.
    pub fn post(self: &Arc<Self>, py: Python<'_>, to: To, draft: Draft) -> PyResult<PyPublication> {
        let hub = self.connected(py)?;
        if hub.is_pressed(draft.len()) {
            self.forget_closed_loops(py);
        }
        if let Some(broker) = hub.broker() {
            let outcome = hub.post(Letter::Event { to, draft }).or_raise(py)?;
            return Ok(PyPublication::later(outcome, broker.clone(), self.loops()));
        }
        let id = match to {
            To::Topics(topics) => Some(hub.publish(&topics, draft).or_raise(py)?),
            To::All => Some(hub.broadcast(draft).or_raise(py)?),
            To::One(name) => {
                hub.send(hub.get(&name).map(|found| found.id), draft).or_raise(py)?;
                None
            }
        };
        self.inherited.published(py, &self.settings.name, &hub);
        Ok(PyPublication::known(id))
    }

    /// Publish to one topic in this process, whose hub has no broker, with one wake-up for several events that follow
    /// each other closely if `gathers` has the reader of their loop. Returns whether readers have yet to be woken. The
    /// inner error is the hub's.
    pub fn publish_alone(
        self: &Arc<Self>,
        py: Python<'_>,
        topic: &Topic,
        run: TopicId,
        draft: Draft,
        gathers: Option<&LoopReader>,
    ) -> PyResult<Result<bool, Error>> {
        let hub = self.connected(py)?;
        if hub.is_pressed(draft.len()) {
            self.forget_closed_loops(py);
        }
        let published = match gathers.filter(|reader| Arc::ptr_eq(&reader.hub, &hub)) {
            Some(reader) => hub.publish_closely(topic, run, draft, reader.reader.id),
            None => hub.publish_to_run(topic, run, draft).map(|_| false),
        };
        if published.is_ok() {
            self.inherited.published(py, &self.settings.name, &hub);
        }
        Ok(published)
    }

    /// Post a letter to the broker.
    pub fn post_letter(
        self: &Arc<Self>,
        py: Python<'_>,
        letter: Letter,
        fence: Option<Fence>,
    ) -> PyResult<PyPublication> {
        let hub = self.connected(py)?;
        let outcome = hub.post_fenced(letter, fence).or_raise(py)?;
        match hub.broker() {
            Some(broker) => Ok(PyPublication::later(outcome, broker.clone(), self.loops())),
            None => Err(Error::HubClosed).or_raise(py),
        }
    }

    /// End a topic in this process.
    pub fn finish(
        self: &Arc<Self>,
        py: Python<'_>,
        topic: &Topic,
        run: Option<TopicId>,
        keep: Duration,
        ending: &Ending,
    ) -> PyResult<PyPublication> {
        let hub = self.connected(py)?;
        let finished = match run {
            Some(run) => hub.finish_run(topic, run, keep, ending),
            None => hub.finish(topic, keep, ending),
        };
        let id = finished.or_raise(py)?;
        self.inherited.published(py, &self.settings.name, &hub);
        Ok(PyPublication::known(Some(id)))
    }

    /// As [`Generations::connected`], for a subscriber.
    pub fn to_subscribe(self: &Arc<Self>, py: Python<'_>) -> PyResult<Arc<Hub>> {
        let hub = self.connected(py)?;
        self.inherited.subscribed(py, &self.settings.name);
        Ok(hub)
    }

    /// The reactors of this hub, if any were started.
    pub fn reactors_of(&self, hub: &Arc<Hub>) -> Option<Arc<Reactors>> {
        self.reactors.lock().clone().filter(|reactors| Arc::ptr_eq(&reactors.hub, hub) && reactors.is_ours())
    }

    /// The reactors of the current hub, if any were started, also while it closes.
    pub fn reactors(&self) -> Option<Arc<Reactors>> {
        self.reactors_of(&self.current.load().hub)
    }

    /// The reactors of this hub, started on first use.
    pub fn start_reactors(&self, py: Python<'_>, hub: &Arc<Hub>) -> PyResult<Arc<Reactors>> {
        if let Some(reactors) = self.reactors_of(hub) {
            return Ok(reactors);
        }
        // Locked while they start, which needs no Python: a close on another thread takes them out afterwards. A thread
        // that waits for this lock keeps its GIL or, without one, stays attached; neither holds up the starting one,
        // not even while a garbage collection stops all attached threads.
        let mut current = self.reactors.lock();
        if !self.is_current(hub) {
            drop(current); // Python makes the exception.
            return Err(Error::HubClosed).or_raise(py);
        }
        let (old, reactors) = match current.take() {
            Some(existing) if Arc::ptr_eq(&existing.hub, hub) => (None, Ok(existing)),
            old => {
                let reports_ends = self.reports_disconnects.clone();
                (old, Reactors::start(hub.clone(), self.settings.threads, reports_ends).map(Arc::new))
            }
        };
        *current = reactors.as_ref().ok().cloned();
        drop(current);
        drop(old);
        Ok(reactors?)
    }

    pub fn readers(&self, py: Python<'_>) -> Vec<Py<LoopReader>> {
        self.readers.lock().iter().map(|reader| reader.clone_ref(py)).collect()
    }

    /// For Python's garbage collector, which calls while no thread runs that could hold the lock.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.settings.traceparent)?;
        let Some(readers) = self.readers.try_lock() else { return Ok(()) };
        readers.iter().try_for_each(|reader| visit.call(reader))
    }

    /// The reader of the loop that runs here, for the current hub, if there is one.
    pub fn reader_here(&self, py: Python<'_>) -> PyResult<Option<Py<LoopReader>>> {
        let Some(hub) = self.open_hub() else { return Ok(None) };
        let mut readers = self.readers(py);
        readers.retain(|reader| Arc::ptr_eq(&reader.get().hub, &hub));
        if readers.is_empty() {
            return Ok(None);
        }
        let here = running_loop(py)?.event_loop;
        let is_here = |reader: &Py<LoopReader>| reader.get().event_loop(py).is_some_and(|it| it.is(&here));
        Ok(readers.into_iter().find(is_here))
    }

    /// The reader of `event_loop`, for this hub. `application` makes the object that reports ends to the application.
    pub fn reader_for<'py>(
        &self,
        hub: &Arc<Hub>,
        event_loop: &Bound<'py, PyAny>,
        is_here: bool,
        application: impl FnOnce() -> PyResult<Box<dyn ReportEnds>>,
    ) -> PyResult<Bound<'py, LoopReader>> {
        let py = event_loop.py();
        for reader in self.readers(py) {
            let found = reader.get();
            if Arc::ptr_eq(&found.hub, hub) && found.event_loop(py).is_some_and(|it| it.is(event_loop)) {
                return Ok(reader.into_bound(py));
            }
        }
        self.forget_closed_loops(py);
        let reader = LoopReader::start(hub.clone(), application()?, event_loop, is_here)?;
        self.readers.lock().push(reader.clone().unbind());
        if !self.is_current(hub) {
            // The hub was closed, perhaps before the reader could be stopped.
            self.stop_readers(py, Some(hub))?;
        }
        Ok(reader)
    }
}

impl FindAnswers for Generations {
    fn find(&self, event_loop: &Bound<'_, PyAny>) -> Option<Arc<Answers>> {
        // A loop of Windows does not keep its reader.
        if cfg!(windows) || !self.is_ours() {
            return None;
        }
        let readers = self.readers(event_loop.py());
        let found = readers.iter().map(Py::get).find(|reader| {
            reader.event_loop(event_loop.py()).is_some_and(|it| it.is(event_loop)) && reader.is_ours()
        });
        found.map(|reader| reader.answers.clone())
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        if self.is_ours()
            && let Some(broker) = self.broker.lock().take()
        {
            // It ends when everything was sent.
            broker.stop();
        }
        // Otherwise a running loop would keep the descriptor of every hub it ever had.
        while_dropping(|py| self.stop_readers(py, None));
    }
}

/// A core hub of these settings.
fn make(settings: &Settings, families: &[(TopicPattern, Retention)]) -> Hub {
    let clock = if settings.has_manual_clock { Clock::manual() } else { Clock::real() };
    let new = if settings.link.is_some() { Hub::of_stream } else { Hub::new };
    let hub = new(settings.config.clone(), clock);
    for (pattern, retention) in families {
        hub.set_retention(pattern, *retention);
    }
    hub
}
