//! `FileBroker`: the directory that connects the processes of a host as one hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::py::values::arguments::{Argument, Number};
#[cfg(unix)]
use crate::py::values::exceptions::OrRaise;
use crate::py::values::options::{Whole, between, positive_seconds, seconds};

/// Connects the processes of a hub through files in a directory: all workers of one host, and no server.
#[pyclass(frozen, name = "FileBroker", module = "sse_hub._core")]
pub struct PyFileBroker {
    pub options: Options,
}

/// What a hub's log needs from the broker.
#[derive(Clone)]
pub struct Options {
    #[cfg(unix)]
    pub place: crate::file::place::Place,
    pub timeout: Duration,
    pub min_age: Duration,
    pub is_synced: bool,
}

#[pymethods]
impl PyFileBroker {
    #[new]
    #[pyo3(signature = (path_or_url, *, timeout=Argument::of(Number(5.0)), min_age=Argument::of(Number(10.0)),
                        sync=Argument::of(false), mode=Argument::of(Whole::Small(0o600))),
           text_signature = "(path_or_url, *, timeout=5.0, min_age=10.0, sync=False, mode=0o600)")]
    fn new(
        py: Python<'_>,
        path_or_url: Argument<PathBuf>,
        timeout: Argument<Number>,
        min_age: Argument<Number>,
        sync: Argument<bool>,
        mode: Argument<Whole>,
    ) -> PyResult<Self> {
        let path = path_or_url.named("path_or_url", "a path or a file: URL")?;
        let timeout = positive_seconds(py, "timeout", timeout)?;
        let min_age = seconds(py, "min_age", min_age)?;
        let sync = sync.named("sync", "True or False")?;
        let mode = between("mode", mode, 0, u32::MAX.into())?;
        Self::made(py, &path, timeout, min_age, sync, u32::try_from(mode).unwrap_or(u32::MAX))
    }

    #[cfg(unix)]
    fn __repr__(&self) -> String {
        format!("<FileBroker {}>", self.options.place.root.display())
    }
}

impl PyFileBroker {
    #[cfg(unix)]
    fn made(
        py: Python<'_>,
        path: &Path,
        timeout: Duration,
        min_age: Duration,
        is_synced: bool,
        mode: u32,
    ) -> PyResult<Self> {
        let place = crate::file::place::Place::new(path, mode, &std::env::current_dir()?).or_raise(py)?;
        place.check().map_err(refused)?;
        Ok(Self { options: Options { place, timeout, min_age, is_synced } })
    }

    #[cfg(not(unix))]
    fn made(_: Python<'_>, _: &Path, _: Duration, _: Duration, _: bool, _: u32) -> PyResult<Self> {
        Err(PyValueError::new_err(
            "a file broker needs Linux or macOS: run one worker with Hub(), or use RedisBroker",
        ))
    }
}

/// The exception for a place where no log may lie.
#[cfg(unix)]
pub fn refused(refusal: crate::file::place::Refusal) -> PyErr {
    use crate::file::place::Refusal;

    match refusal {
        Refusal::Wrong(text) => PyValueError::new_err(text),
        Refusal::Denied(text) => pyo3::exceptions::PyPermissionError::new_err(text),
    }
}
