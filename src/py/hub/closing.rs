//! The end of a hub of now, in steps, so that Python can wait between them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::PyHub;
use super::reactors::Reactors;
use crate::broker::Broker;
use crate::redis::RedisBroker;

impl PyHub {
    /// See `_refuse`.
    pub(super) fn refuse(&self) -> Option<(usize, bool)> {
        let current = self.current.load_full();
        if !current.is_open() {
            return None;
        }
        let hub = &current.hub;
        hub.refuse();
        let broker = self.broker.lock().clone().filter(|broker| broker.is_of(hub));
        let left =
            |broker: Arc<RedisBroker>| (broker.unsent(), hub.count(None) > 0 && broker.is_behind_itself());
        Some(broker.map_or((0, false), left))
    }

    /// See `_finish_close`.
    pub(super) fn finish_close(&self, py: Python<'_>, epoch: &str) -> PyResult<()> {
        let Some(current) = self.current(epoch) else { return Ok(()) };
        if current.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A hub that was started since has one of its own.
        let is_its = |broker: &mut Arc<RedisBroker>| broker.is_of(&current.hub);
        if let Some(broker) = self.broker.lock().take_if(is_its) {
            broker.stop();
        }
        // Reactors that another thread has begun to start are there by the time of the lock.
        let is_its = |reactors: &mut Arc<Reactors>| Arc::ptr_eq(&reactors.hub, &current.hub);
        let reactors = self.reactors.lock().take_if(is_its);
        // Their threads end, and what is left of their connections is closed.
        py.detach(|| {
            if let Some(reactors) = reactors {
                reactors.stop();
            }
        });
        self.stop_readers(py, Some(&current.hub))
    }
}
