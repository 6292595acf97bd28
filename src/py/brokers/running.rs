//! The brokers that run in this process, and their reports to Python.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use crate::broker::Broker;
use crate::py::process::awaiting;
use crate::py::process::fork::PerProcess;
use crate::py::process::log;
use crate::stream_broker::Observer;

/// Called when a broker finds that delivery lags.
pub type Lagging = Box<dyn Fn(Python<'_>) + Send + Sync>;

/// Reports to Python's logging and to the hub.
pub struct PythonObserver {
    name: String,
    lagging: Arc<Lagging>,
}

impl PythonObserver {
    pub fn new(name: &str, lagging: Lagging) -> Self {
        Self { name: name.into(), lagging: Arc::new(lagging) }
    }
}

impl Observer for PythonObserver {
    fn warn(&self, message: String) {
        let hub = self.name.clone();
        awaiting::soon(move |py| log::warn(py, &hub, &message));
    }

    fn lagging(&self) {
        let lagging = self.lagging.clone();
        awaiting::soon(move |py| {
            lagging(py);
            Ok(())
        });
    }
}

/// The longest time that the interpreter's end waits for a thread that starts a broker.
const PATIENCE: Duration = Duration::from_secs(1);

/// Brokers that may have unsent letters.
static RUNNING: PerProcess<Vec<Arc<dyn Broker>>> = PerProcess::new();

/// Remember a broker that was started.
pub fn remember(broker: Arc<dyn Broker>) {
    RUNNING.with(|running| {
        let mut running = running.lock();
        running.retain(|broker| !broker.has_ended());
        running.push(broker);
    });
}

/// At the interpreter's end: wait until published events are sent.
pub fn end(py: Python<'_>) {
    py.detach(|| {
        let taken = RUNNING
            .with(|running| running.try_lock_for(PATIENCE).map(|mut running| mem::take(&mut *running)));
        let running = taken.unwrap_or_default();
        for broker in &running {
            broker.stop();
        }
        wait_for(&running, |broker| broker.finish());
    });
}

/// Wait until events published so far are sent, in a process that may end without the interpreter's end.
pub fn flush(py: Python<'_>) {
    py.detach(|| {
        let running = RUNNING.with(|running| running.try_lock_for(PATIENCE).map(|running| running.clone()));
        wait_for(&running.unwrap_or_default(), |broker| broker.wait_sent());
    });
}

/// Wait for each broker, and report letters that are given up.
fn wait_for(brokers: &[Arc<dyn Broker>], wait: fn(&dyn Broker) -> usize) {
    for broker in brokers {
        let left = wait(&**broker);
        if left > 0 {
            broker.report_given_up(left);
        }
    }
}
