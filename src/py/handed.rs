//! Streams that were handed to reactors, as Python sees them: nothing per client but what the application gave,
//! and a way for the reactor's thread to report an end without touching Python.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::fork;
use crate::entry::SubscriberId;
use crate::hub::Hub;
use crate::reactor::{Listener, Reactor};
use crate::reader::{Reader, ReaderId};
use crate::subscriber::{CloseReason, Identity};
use crate::sync::Mutex;

/// Ends that an event loop has to be told of.
pub struct Reports {
    queue: Mutex<Vec<(Arc<Identity>, CloseReason)>>,
    /// Its bell makes the loop look.
    reader: Arc<Reader>,
}

impl Reports {
    pub fn new(reader: Arc<Reader>) -> Self {
        Self { queue: Mutex::default(), reader }
    }

    pub fn take(&self) -> Vec<(Arc<Identity>, CloseReason)> {
        std::mem::take(&mut *self.queue.lock())
    }
}

/// Which loop each handed-off stream came from.
#[derive(Default)]
struct Homes(Mutex<FxHashMap<SubscriberId, Arc<Reports>>>);

struct HomeListener(Arc<Homes>);

impl Listener for HomeListener {
    fn closed(&self, identity: &Arc<Identity>, reason: &CloseReason) {
        let home = self.0.0.lock().remove(&identity.id);
        if let Some(home) = home {
            home.queue.lock().push((identity.clone(), reason.clone()));
            home.reader.bell.ring();
        }
    }
}

/// What the application gave with a stream.
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
    next: AtomicUsize,
    homes: Arc<Homes>,
    clients: Mutex<FxHashMap<SubscriberId, HandedClient>>,
    generation: u64,
}

impl Reactors {
    pub fn start(hub: Arc<Hub>, threads: usize) -> std::io::Result<Self> {
        let homes = Arc::new(Homes::default());
        let start = |_| Reactor::start(hub.clone(), Box::new(HomeListener(homes.clone())));
        let threads = (0..threads).map(start).collect::<std::io::Result<_>>()?;
        let generation = fork::generation();
        Ok(Self { hub, threads, next: AtomicUsize::new(0), homes, clients: Mutex::default(), generation })
    }

    /// Whether they were started in this process: if not, nothing of them may be locked.
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// The reactor for the next client, in turn.
    pub fn pick(&self) -> &Reactor {
        &self.threads[self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len()]
    }

    /// The reactor a subscriber is at.
    pub fn find(&self, reader: ReaderId) -> Option<&Reactor> {
        self.threads.iter().find(|reactor| reactor.reader.id == reader)
    }

    pub fn remember(&self, identity: &Identity, home: Arc<Reports>, client: HandedClient) {
        self.homes.0.lock().insert(identity.id, home);
        if client.info.is_some() || client.on_end.is_some() {
            self.clients.lock().insert(identity.id, client);
        }
    }

    pub fn info(&self, py: Python<'_>, id: SubscriberId) -> Option<Py<PyAny>> {
        self.clients.lock().get(&id).and_then(|client| client.info.as_ref().map(|info| info.clone_ref(py)))
    }

    pub fn on_end(&self, py: Python<'_>, id: SubscriberId) -> Option<Py<PyAny>> {
        self.clients.lock().get(&id).and_then(|client| client.on_end.as_ref().map(|call| call.clone_ref(py)))
    }

    /// The stream was closed by a call from Python: its loop is told like of any other end.
    pub fn report(&self, identity: &Arc<Identity>, reason: &CloseReason) {
        HomeListener(self.homes.clone()).closed(identity, reason);
    }

    pub fn forget(&self, id: SubscriberId) -> HandedClient {
        self.homes.0.lock().remove(&id);
        self.clients.lock().remove(&id).unwrap_or_default()
    }

    pub fn open(&self, server: Option<u64>) -> usize {
        let count = |reactor: &Reactor| server.map_or_else(|| reactor.open_in_all(), |it| reactor.open(it));
        self.threads.iter().map(count).sum()
    }

    pub fn abort(&self, server: u64) {
        for reactor in &self.threads {
            reactor.abort(server);
        }
    }

    /// End the threads; a handle to a subscriber may keep `self`, but nothing of theirs.
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
