//! The core hub of now behind `Hub`: made anew after a close or a fork, with the readers of its loops, its
//! reactors and its broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::Guard;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

use super::PyHub;
use super::loop_reader::LoopReader;
use super::publication::PyPublication;
use super::reactors::Reactors;
use super::subscription::PySubscription;
use crate::broker::letter::{Letter, To};
use crate::clock::Clock;
use crate::error::Error;
use crate::frame::Draft;
use crate::hub::Hub;
use crate::identity::Identity;
use crate::py::process::{exit, fork};
use crate::py::values::exceptions::{OrRaise, while_dropping};

/// A core hub, from its start to its close or the fork that leaves it behind.
pub struct Current {
    pub hub: Arc<Hub>,
    pub generation: u64,
    pub closed: AtomicBool,
}

impl Current {
    pub fn is_open(&self) -> bool {
        self.generation == fork::generation() && !self.closed.load(Ordering::Acquire)
    }
}

/// The event loop that runs here, or whose worker thread this is; and whether it runs here.
pub fn running_loop(py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, bool)> {
    let asyncio = py.import(intern!(py, "asyncio"))?;
    match asyncio.call_method0(intern!(py, "get_running_loop")) {
        Ok(event_loop) => Ok((event_loop, true)),
        Err(error) if error.is_instance_of::<PyRuntimeError>(py) => {
            // FastAPI runs `def` endpoints in a worker thread, which knows its loop.
            let from_thread = py.import(intern!(py, "anyio.from_thread"))?;
            let get = asyncio.getattr(intern!(py, "get_running_loop"))?;
            match from_thread.call_method1(intern!(py, "run_sync"), (get,)) {
                Ok(event_loop) => Ok((event_loop, false)),
                Err(_) => Err(PyRuntimeError::new_err(
                    "subscribe() needs a running event loop: call it in async code, or in a worker thread of one",
                )),
            }
        }
        Err(error) => Err(error),
    }
}

impl PyHub {
    /// The hub of now.
    pub fn core(&self) -> Arc<Hub> {
        loop {
            let current = self.current.load();
            if current.is_open() {
                return current.hub.clone();
            }
            let old = Guard::into_inner(current);
            let hub = Arc::new(self.make());
            let next = Current { hub, generation: fork::generation(), closed: AtomicBool::new(false) };
            let replaced = self.current.compare_and_swap(&old, Arc::new(next));
            if Arc::ptr_eq(&old, &replaced) && old.generation != fork::generation() {
                // A forked child: what it inherited may be locked for ever. It is left alone, never dropped.
                std::mem::forget(old);
                let inherited = std::mem::take(&mut *self.readers.lock());
                std::mem::forget(inherited);
                let reactors = self.reactors.lock().take();
                std::mem::forget(reactors);
                std::mem::forget(self.broker.lock().take());
            }
        }
    }

    /// Whether this is the hub of now.
    pub fn is_now(&self, hub: &Arc<Hub>) -> bool {
        let current = self.current.load();
        current.is_open() && Arc::ptr_eq(&current.hub, hub)
    }

    pub(super) fn make(&self) -> Hub {
        let clock = if self.manual_clock { Clock::manual() } else { Clock::real() };
        let hub = match self.link {
            None => Hub::new(self.config.clone(), clock),
            Some(_) => Hub::of_stream(self.config.clone(), clock),
        };
        for (pattern, retention) in &*self.families.lock() {
            hub.set_retention(pattern, *retention);
        }
        hub
    }

    /// The hub of now, connected to its broker if it has one: what publishes and subscribes needs that.
    pub(super) fn live(slf: &Bound<'_, Self>) -> PyResult<Arc<Hub>> {
        let this = slf.get();
        let hub = this.core();
        let Some(link) = this.link.as_ref().filter(|_| hub.broker().is_none()) else { return Ok(hub) };
        let owner = PyWeakrefReference::new(slf)?.unbind();
        exit::watch_child(slf.py())?;
        // Locked while it starts, which needs no Python: who closes the hub meanwhile takes it out after that.
        let mut broker = this.broker.lock();
        if hub.broker().is_some() {
            return Ok(hub);
        }
        if !this.is_now(&hub) {
            drop(broker);
            return Self::live(slf);
        }
        let started = link.start(&hub, owner).map(|started| broker.replace(started));
        drop(broker); // what is raised is made by Python
        if let Some(replaced) = started? {
            replaced.stop();
        }
        Ok(hub)
    }

    /// Publish through the broker, or here.
    pub(super) fn post(slf: &Bound<'_, Self>, to: To, draft: Draft) -> PyResult<PyPublication> {
        let py = slf.py();
        let hub = Self::live(slf)?;
        if hub.is_pressed(draft.len()) {
            slf.get().prune(py);
        }
        if let Some(broker) = hub.broker() {
            let outcome = hub.post(Letter::Event { to, draft }).or_raise(py)?;
            return Ok(PyPublication::later(outcome, broker.clone()));
        }
        let id = match to {
            To::Topics(topics) => Some(hub.publish(&topics, draft).or_raise(py)?),
            To::All => Some(hub.broadcast(draft).or_raise(py)?),
            To::One(name) => {
                hub.send(hub.get(&name).map(|found| found.id), draft).or_raise(py)?;
                None
            }
        };
        Ok(PyPublication::known(id))
    }

    /// Whether `_disconnected` wants to know of streams that ended.
    pub fn tells_of_disconnects(&self) -> bool {
        self.tells_of_disconnects.load(Ordering::Relaxed)
    }

    /// The hub of now, if it has this epoch.
    pub(super) fn current(&self, epoch: &str) -> Option<Arc<Current>> {
        let current = self.current.load_full();
        (current.is_open() && current.hub.epoch.as_str() == epoch).then_some(current)
    }

    /// The reactors of that hub, if any were started.
    pub fn reactors_of(&self, hub: &Arc<Hub>) -> Option<Arc<Reactors>> {
        self.reactors.lock().clone().filter(|reactors| Arc::ptr_eq(&reactors.hub, hub) && reactors.is_ours())
    }

    /// The reactors of that hub, started on first use.
    pub fn start_reactors(&self, py: Python<'_>, hub: &Arc<Hub>) -> PyResult<Arc<Reactors>> {
        if let Some(reactors) = self.reactors_of(hub) {
            return Ok(reactors);
        }
        // Locked while they start, which needs no Python: who closes the hub meanwhile takes them out after that.
        let mut current = self.reactors.lock();
        if !self.is_now(hub) {
            drop(current); // what is raised is made by Python
            return Err(Error::HubClosed).or_raise(py);
        }
        let (old, reactors) = match current.take() {
            Some(existing) if Arc::ptr_eq(&existing.hub, hub) => (None, Ok(existing)),
            old => {
                let tells = self.tells_of_disconnects.clone();
                (old, Reactors::start(hub.clone(), self.threads, tells).map(Arc::new))
            }
        };
        *current = reactors.as_ref().ok().cloned();
        drop(current);
        drop(old);
        Ok(reactors?)
    }

    /// A handle to a subscriber, wherever it is.
    pub(super) fn handle<'py>(
        slf: &Bound<'py, Self>,
        hub: &Arc<Hub>,
        identity: Arc<Identity>,
    ) -> PyResult<Option<Bound<'py, PySubscription>>> {
        let py = slf.py();
        if let Some(reactors) = slf.get().reactors_of(hub)
            && let Some(reactor) = reactors.find(identity.reader)
        {
            let reader = reactor.reader.clone();
            return Bound::new(py, PySubscription::on_reactor(slf, &reactors, reader, identity)).map(Some);
        }
        let is_its = |reader: &Py<LoopReader>| {
            Arc::ptr_eq(&reader.get().hub, hub) && reader.get().reader.id == identity.reader
        };
        match slf.get().readers(py).into_iter().find(is_its) {
            Some(reader) => Bound::new(py, PySubscription::on_loop(slf, reader.bind(py), identity)).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn readers(&self, py: Python<'_>) -> Vec<Py<LoopReader>> {
        self.readers.lock().iter().map(|reader| reader.clone_ref(py)).collect()
    }

    /// Forget the readers whose loops are closed, with what they still held back.
    pub fn prune(&self, py: Python<'_>) {
        let (alive, dead): (Vec<_>, Vec<_>) =
            self.readers(py).into_iter().partition(|reader| reader.get().is_alive(py));
        if dead.is_empty() {
            return;
        }
        let old = std::mem::replace(&mut *self.readers.lock(), alive);
        drop(old);
        for reader in dead {
            let reader = reader.get();
            if reader.is_ours() {
                reader.hub.remove_reader(&reader.reader);
                reader.forget_clients();
                let ends = reader.reports.close();
                if let Some(reactors) = self.reactors_of(&reader.hub) {
                    for (identity, _) in ends {
                        drop(reactors.forget(identity.id));
                    }
                    reactors.forget_orphans();
                }
            }
        }
    }

    /// The reader of `event_loop`, for the hub of now.
    pub(super) fn reader_for<'py>(
        slf: &Bound<'py, Self>,
        hub: &Arc<Hub>,
        event_loop: &Bound<'py, PyAny>,
        is_here: bool,
    ) -> PyResult<Bound<'py, LoopReader>> {
        let py = slf.py();
        let this = slf.get();
        for reader in this.readers(py) {
            let found = reader.get();
            if Arc::ptr_eq(&found.hub, hub) && found.event_loop(py).is_some_and(|it| it.is(event_loop)) {
                return Ok(reader.into_bound(py));
            }
        }
        this.prune(py);
        let reader = LoopReader::start(slf, hub.clone(), event_loop, is_here)?;
        this.readers.lock().push(reader.clone().unbind());
        if !this.is_now(hub) {
            // Closed meanwhile, perhaps before the reader was there to be stopped.
            this.stop_readers(py, Some(hub))?;
        }
        Ok(reader)
    }

    /// Stop watching, each on its own loop: the readers of one hub, or all.
    pub(super) fn stop_readers(&self, py: Python<'_>, hub: Option<&Arc<Hub>>) -> PyResult<()> {
        let is_meant =
            |reader: &mut Py<LoopReader>| hub.is_none_or(|hub| Arc::ptr_eq(&reader.get().hub, hub));
        let readers: Vec<_> = self.readers.lock().extract_if(.., is_meant).collect();
        for reader in readers {
            let event_loop = reader.get().event_loop(py).filter(|_| reader.get().is_ours());
            match event_loop.filter(|_| reader.get().is_alive(py)) {
                Some(event_loop) => {
                    let stop = reader.getattr(py, intern!(py, "_stop"))?;
                    event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (stop,))?;
                }
                None if reader.get().is_ours() => reader.get().forget_clients(),
                None => {}
            }
        }
        Ok(())
    }
}

impl Drop for PyHub {
    fn drop(&mut self) {
        if self.current.load().generation == fork::generation()
            && let Some(broker) = self.broker.lock().take()
        {
            // It ends when everything was sent.
            broker.stop();
        }
        // A loop that goes on would keep the descriptor of every hub it ever had.
        while_dropping(|py| self.stop_readers(py, None));
    }
}
