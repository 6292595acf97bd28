//! Whose turn it is to do the work of a reactor's thread: its own while it is awake. While it sleeps, a thread that has
//! delivered to few clients may serve them at once, which costs less than to wake another thread for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::Events;
use parking_lot::Mutex;

use super::shared::Shared;
use super::signal::Heard;
use super::sockets::Sockets;
use super::worker::Worker;
use crate::waker::Wake;

/// The place of a reactor's worker.
pub struct Desk {
    pub shared: Arc<Shared>,
    /// Whoever works takes it out, and puts it back before the lock is released. `None` before the thread begins, when
    /// it has ended, and when a panic has dropped the worker. Locked for a round of work; whoever holds it may take the
    /// locks of readers and of the hub, and no other thread takes it while it holds one of those.
    worker: Mutex<Option<Box<Worker>>>,
}

impl Desk {
    pub fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), worker: Mutex::default() })
    }

    pub fn put(&self, worker: Worker) {
        *self.worker.lock() = Some(Box::new(worker));
    }

    /// The thread has ended, or was never started.
    pub fn clear(&self) {
        let worker = self.worker.lock().take();
        drop(worker);
    }

    /// The thread's work.
    pub fn run(&self, mut sockets: Sockets, heard: &Heard) {
        let mut events = Events::with_capacity(1024);
        // What came before the thread began has not signalled it.
        let mut timeout = Some(Duration::ZERO);
        loop {
            let polled = match sockets.wait(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled,
            };
            let mut desk = self.worker.lock();
            let Some(mut worker) = desk.take() else { return };
            // Only a broken descriptor of our own fails otherwise: without it no client can be served.
            if polled.is_err() || !worker.work(&events, heard) {
                drop(desk);
                return worker.close_all();
            }
            timeout = worker.sleep();
            *desk = Some(worker);
        }
    }
}

/// Wakes the thread when the log has something for it, or works in its place.
pub struct DeskWaker(pub Arc<Desk>);

impl Wake for DeskWaker {
    fn wake(&self) {
        self.0.shared.wake();
    }

    fn serve(&self, most: usize) -> usize {
        let mut served = None;
        if let Some(mut desk) = self.0.worker.try_lock()
            && let Some(mut worker) = desk.take()
        {
            served = worker.stand_in(most);
            *desk = Some(worker);
        }
        match served {
            Some(served) if !served.is_more => served.clients,
            _ => {
                self.0.shared.wake();
                served.map_or(0, |served| served.clients)
            }
        }
    }
}
