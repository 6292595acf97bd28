//! Closing a hub's generation, and removing readers of closed event loops.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::intern;
use pyo3::prelude::*;

use super::generations::Generations;
use super::loop_reader::LoopReader;
use super::reactors::Reactors;
use crate::broker::Broker;
use crate::hub::Hub;
use crate::identity::CloseReason;

impl Generations {
    /// Remove the readers whose loops are closed, with their subscribers and cursors.
    pub fn forget_closed_loops(&self, py: Python<'_>) {
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
                for identity in reader.hub.remove_reader(&reader.reader) {
                    let _ = identity.closed.set(loop_closed());
                }
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

    /// Stop watching, each on its own loop: the readers of one hub, or all.
    pub(super) fn stop_readers(&self, py: Python<'_>, hub: Option<&Arc<Hub>>) -> PyResult<()> {
        let is_wanted =
            |reader: &mut Py<LoopReader>| hub.is_none_or(|hub| Arc::ptr_eq(&reader.get().hub, hub));
        let readers: Vec<_> = self.readers.lock().extract_if(.., is_wanted).collect();
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

    /// Close, step 1: refuse publications and subscribers; streams go on. Returns how many letters have no answer from
    /// the broker yet, and whether some have yet to come back from there; `None` when nothing is open.
    pub fn refuse(&self) -> Option<(usize, bool)> {
        let hub = self.open_hub()?;
        hub.refuse();
        let left =
            |broker: &Arc<dyn Broker>| (broker.unsent(), hub.count(None) > 0 && broker.is_behind_itself());
        Some(hub.broker().map_or((0, false), left))
    }

    /// Close, step 2: close all streams behind everything published. Returns the epoch of the hub that closes: another
    /// one may follow it before the next steps. `None` when nothing is open.
    pub fn begin_close(&self, py: Python<'_>) -> Option<String> {
        let hub = self.open_hub()?;
        // A closed loop can report nothing.
        self.forget_closed_loops(py);
        hub.begin_close();
        Some(hub.epoch.to_string())
    }

    /// Close, step 3: how many streams have not reached their end.
    pub fn unfinished(&self, epoch: &str) -> usize {
        let Some(current) = self.open_with_epoch(epoch) else { return 0 };
        let handed_off = self.reactors_of(&current.hub).map_or(0, |reactors| reactors.open(None));
        current.hub.unfinished() + handed_off
    }

    /// Close, step 4: the next use makes a new generation.
    pub fn finish_close(&self, py: Python<'_>, epoch: &str) -> PyResult<()> {
        let Some(current) = self.open_with_epoch(epoch) else { return Ok(()) };
        // One thread alone goes on from here, with or without a GIL. What others still make for this generation, they
        // make under the locks below, after they saw that it is not closed: so it is found there.
        if current.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A generation that was made since has its own broker.
        let is_its =
            |broker: &mut Arc<dyn Broker>| current.hub.broker().is_some_and(|own| Arc::ptr_eq(own, broker));
        if let Some(broker) = self.broker.lock().take_if(is_its) {
            broker.stop();
            self.ending.lock().push(broker);
        }
        // Reactors that another thread is starting are found here once it has released the lock.
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

    /// Close, step 5: whether a broker of a closed generation still runs. It ends once it has written what the next
    /// process finds.
    pub fn is_broker_ending(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let mut ending = self.ending.lock();
        ending.retain(|broker| !broker.has_ended());
        !ending.is_empty()
    }
}

/// Why the streams of a closed loop ended.
pub fn loop_closed() -> CloseReason {
    CloseReason::Closed { text: Some("loop_closed".into()), drains: false }
}
