//! How a hub uses the broker that it was given.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

#[cfg(unix)]
use super::file;
use super::file::PyFileBroker;
use super::redis::PyRedisBroker;
use super::running::{self, Lagging, PythonObserver};
use crate::broker::Broker;
use crate::hub::Hub;
use crate::py::values::exceptions::OrRaise;
use crate::redis::options::{Keys, Server};
use crate::stream_broker::{Kept, Observer};

/// A broker that a hub is given.
#[derive(FromPyObject)]
pub enum GivenBroker<'py> {
    Redis(PyRef<'py, PyRedisBroker>),
    File(PyRef<'py, PyFileBroker>),
}

impl GivenBroker<'_> {
    pub fn min_age(&self) -> Duration {
        match self {
            Self::Redis(broker) => broker.min_age,
            Self::File(broker) => broker.options.min_age,
        }
    }
}

/// How one hub uses a broker.
pub struct Link {
    target: Target,
    kept: Kept,
    name: String,
}

enum Target {
    Redis {
        server: Box<Server>,
        keys: Box<Keys>,
        min_replicas: u32,
    },
    #[cfg(unix)]
    File {
        options: file::Options,
        dir: std::path::PathBuf,
    },
}

impl Link {
    pub fn new(py: Python<'_>, broker: &GivenBroker<'_>, name: &str, kept: Kept) -> PyResult<Self> {
        let target = match broker {
            GivenBroker::Redis(broker) => {
                let keys = Box::new(Keys::new(&broker.prefix, name).or_raise(py)?);
                Target::Redis {
                    server: Box::new(broker.server.clone()),
                    keys,
                    min_replicas: broker.min_replicas,
                }
            }
            #[cfg(unix)]
            GivenBroker::File(broker) => {
                let place = &broker.options.place;
                let dir = place.of_hub(name).or_raise(py)?;
                place.check_log(&dir).map_err(file::refused)?;
                Target::File { options: broker.options.clone(), dir }
            }
            #[cfg(not(unix))]
            GivenBroker::File(_) => {
                return Err(pyo3::exceptions::PyValueError::new_err("a file broker needs a Unix"));
            }
        };
        Ok(Self { target, kept, name: name.into() })
    }

    /// Connect a hub.
    pub fn start(&self, hub: &Arc<Hub>, lagging: Lagging) -> std::io::Result<Arc<dyn Broker>> {
        let observer = Box::new(PythonObserver::new(&self.name, lagging));
        let broker = self.target.start(hub, self.kept, observer)?;
        running::remember(broker.clone());
        Ok(broker)
    }
}

impl Target {
    fn start(
        &self,
        hub: &Arc<Hub>,
        kept: Kept,
        observer: Box<dyn Observer>,
    ) -> std::io::Result<Arc<dyn Broker>> {
        match self {
            Self::Redis { server, keys, min_replicas } => {
                crate::redis::start(hub, (**server).clone(), (**keys).clone(), kept, *min_replicas, observer)
            }
            #[cfg(unix)]
            Self::File { options, dir } => {
                use crate::file::{self, journal, system};

                let settings = journal::Settings {
                    place: options.place.clone(),
                    dir: dir.clone(),
                    kept,
                    is_synced: options.is_synced,
                    least_bytes: journal::LEAST_BYTES,
                    system: Arc::new(system::Machine),
                };
                file::start(hub, settings, options.timeout, observer)
            }
        }
    }
}
