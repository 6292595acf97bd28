//! Streams that were handed to reactors, as Python sees them: nothing per client but the objects of the application,
//! and a way for the reactor's thread to report an end without touching Python.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pyo3::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::ids::{GroupId, ReaderId, SubscriberId};
use crate::py::process::fork::Process;
use crate::reactor::{Listener, Reactor};
use crate::reader::Reader;
use crate::sync::Mutex;

type Ends = Vec<(Arc<Identity>, CloseReason)>;

/// Ends of streams that an event loop must report to the application.
pub struct Reports {
    /// `None` once the loop is closed.
    queue: Mutex<Option<Ends>>,
    /// Its bell makes the loop take the reports.
    reader: Arc<Reader>,
    /// The reactors of these streams, which a closing hub drops before the loop has reported the ends.
    reactors: Mutex<Option<Arc<Reactors>>>,
}

impl Reports {
    pub fn new(reader: Arc<Reader>) -> Self {
        Self { queue: Mutex::new(Some(Vec::new())), reader, reactors: Mutex::default() }
    }

    /// The reactors whose streams' ends are reported here.
    pub fn reactors(&self) -> Option<Arc<Reactors>> {
        self.reactors.lock().clone().filter(|reactors| reactors.is_ours())
    }

    /// The loop has reported everything, or is closed.
    pub fn release(&self) {
        let reactors = self.reactors.lock().take();
        drop(reactors);
    }

    pub fn take(&self) -> Ends {
        self.queue.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The loop is closed, and reports no more. Returns the ends that it has not reported.
    pub fn close(&self) -> Ends {
        self.queue.lock().take().unwrap_or_default()
    }

    /// False when the loop is closed.
    fn push(&self, identity: &Arc<Identity>, reason: &CloseReason) -> bool {
        let is_open = match &mut *self.queue.lock() {
            Some(queue) => {
                queue.push((identity.clone(), reason.clone()));
                true
            }
            None => false,
        };
        if is_open {
            self.reader.bell.ring();
        }
        is_open
    }
}

/// The event loop that each handed-off stream came from.
struct Homes {
    loops: Mutex<FxHashMap<SubscriberId, Arc<Reports>>>,
    /// Streams with objects of the application, which their loop drops.
    given: Mutex<FxHashSet<SubscriberId>>,
    /// Whether the hub wants reports of streams that ended. Relaxed: as `Generations::reports_disconnects`.
    reports_ends: Arc<AtomicBool>,
    /// Streams that ended when their loop was closed. The objects of the application are dropped by the next
    /// thread that is attached to Python.
    orphans: Mutex<Vec<SubscriberId>>,
}

struct HomeListener(Arc<Homes>);

impl Listener for HomeListener {
    fn closed(&self, identity: &Arc<Identity>, reason: &CloseReason) {
        let home = self.0.loops.lock().remove(&identity.id);
        let given = self.0.given.lock().remove(&identity.id);
        // A loop that has nothing to report is not woken.
        if let Some(home) = home
            && (given || self.0.reports_ends.load(Ordering::Relaxed))
            && !home.push(identity, reason)
        {
            self.0.orphans.lock().push(identity.id);
        }
    }
}

/// The objects that the application gave with a stream.
#[derive(Default)]
pub struct HandedClient {
    pub info: Option<Py<PyAny>>,
    /// Called with the reason when the stream has ended.
    pub on_end: Option<Py<PyAny>>,
}

/// A hub's reactors.
pub struct Reactors {
    pub hub: Arc<Hub>,
    threads: Vec<Reactor>,
    /// The next client's thread. Relaxed: any spread will do.
    next: AtomicUsize,
    homes: Arc<Homes>,
    clients: Mutex<FxHashMap<SubscriberId, HandedClient>>,
    process: Process,
}

impl Reactors {
    pub fn start(hub: Arc<Hub>, threads: usize, reports_ends: Arc<AtomicBool>) -> std::io::Result<Self> {
        let homes = Arc::new(Homes {
            loops: Mutex::default(),
            given: Mutex::default(),
            reports_ends,
            orphans: Mutex::default(),
        });
        let start = |_| Reactor::start(hub.clone(), Box::new(HomeListener(homes.clone())));
        let threads = (0..threads).map(start).collect::<std::io::Result<_>>()?;

        Ok(Self {
            hub,
            threads,
            next: AtomicUsize::new(0),
            homes,
            clients: Mutex::default(),
            process: Process::current(),
        })
    }

    /// Whether they were started in this process: if not, none of their locks may be taken.
    pub fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    /// The reactor for the next client, in turn.
    pub fn pick(&self) -> &Reactor {
        &self.threads[self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len()]
    }

    /// The reactor a subscriber is at.
    pub fn find(&self, reader: ReaderId) -> Option<&Reactor> {
        self.threads.iter().find(|reactor| reactor.reader.id == reader)
    }

    pub fn remember(self: &Arc<Self>, identity: &Identity, home: Arc<Reports>, client: HandedClient) {
        let old = home.reactors.lock().replace(self.clone());
        drop(old);
        self.forget_orphans();
        let given = client.info.is_some() || client.on_end.is_some();
        if given {
            self.homes.given.lock().insert(identity.id);
        }
        self.homes.loops.lock().insert(identity.id, home);
        if given {
            self.clients.lock().insert(identity.id, client);
        }
    }

    pub fn info(&self, py: Python<'_>, id: SubscriberId) -> Option<Py<PyAny>> {
        self.clients.lock().get(&id).and_then(|client| client.info.as_ref().map(|info| info.clone_ref(py)))
    }

    pub fn on_end(&self, py: Python<'_>, id: SubscriberId) -> Option<Py<PyAny>> {
        self.clients.lock().get(&id).and_then(|client| client.on_end.as_ref().map(|call| call.clone_ref(py)))
    }

    /// The stream was closed by a call from Python: its loop reports it like any other end.
    pub fn report(&self, identity: &Arc<Identity>, reason: &CloseReason) {
        HomeListener(self.homes.clone()).closed(identity, reason);
    }

    pub fn forget(&self, id: SubscriberId) -> HandedClient {
        self.homes.loops.lock().remove(&id);
        self.homes.given.lock().remove(&id);
        self.clients.lock().remove(&id).unwrap_or_default()
    }

    /// Drop the objects of streams whose loop was closed before they ended.
    pub fn forget_orphans(&self) {
        let orphans = std::mem::take(&mut *self.homes.orphans.lock());
        for id in orphans {
            drop(self.forget(id));
        }
    }

    pub fn open(&self, group: Option<GroupId>) -> usize {
        let count = |reactor: &Reactor| group.map_or_else(|| reactor.open_in_all(), |it| reactor.open(it));
        self.threads.iter().map(count).sum()
    }

    pub fn abort(&self, group: GroupId) {
        for reactor in &self.threads {
            reactor.abort(group);
        }
    }

    /// End the threads. A handle to a subscriber may keep `self`, but nothing that belongs to the threads.
    pub fn stop(&self) {
        for reactor in &self.threads {
            reactor.stop();
        }
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        if !self.is_ours() {
            // A forked child has none of these threads to wait for.
            std::mem::forget(std::mem::take(&mut self.threads));
        }
    }
}
