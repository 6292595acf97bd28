//! `RedisBroker`: which Redis connects the processes of a hub, and how.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::py::values::arguments::{Argument, Number, if_given};
use crate::py::values::exceptions::OrRaise;
use crate::py::values::options::{Whole, between, positive_seconds, seconds};
use crate::redis::options::{Certificates, Keys, Server};

/// Connects the processes of a hub through Redis (6.2 or newer) or Valkey, with Redis Streams.
#[pyclass(frozen, name = "RedisBroker", module = "sse_hub._core")]
pub struct PyRedisBroker {
    pub server: Server,
    pub prefix: String,
    pub min_age: Duration,
    pub min_replicas: u32,
}

/// The content of a file, if one is named; the error names it too.
fn read(option: &str, path: Option<Argument<PathBuf>>) -> PyResult<Option<Vec<u8>>> {
    let Some(path) = if_given(path, option, "a path")? else { return Ok(None) };
    std::fs::read(&path).map(Some).map_err(|error| match error.raw_os_error() {
        // Python turns it into a FileNotFoundError, or whatever else fits the number.
        Some(number) => PyOSError::new_err((number, error.to_string(), path)),
        None => error.into(),
    })
}

#[pymethods]
impl PyRedisBroker {
    #[new]
    #[pyo3(signature = (url, *, prefix=Argument::of("sse-hub"), timeout=Argument::of(Number(5.0)),
                        connect_timeout=Argument::of(Number(1.5)), min_age=Argument::of(Number(10.0)),
                        min_replicas=Argument::of(Whole::Small(0)), ca_certs=None, certfile=None, keyfile=None),
           text_signature = "(url, *, prefix='sse-hub', timeout=5.0, connect_timeout=1.5, min_age=10.0, min_replicas=0, ca_certs=None, certfile=None, keyfile=None)")]
    #[allow(clippy::too_many_arguments, reason = "the options of a broker, by keyword")]
    fn new(
        py: Python<'_>,
        url: Argument<&str>,
        prefix: Argument<&str>,
        timeout: Argument<Number>,
        connect_timeout: Argument<Number>,
        min_age: Argument<Number>,
        min_replicas: Argument<Whole>,
        ca_certs: Option<Argument<PathBuf>>,
        certfile: Option<Argument<PathBuf>>,
        keyfile: Option<Argument<PathBuf>>,
    ) -> PyResult<Self> {
        let (url, prefix) = (url.named("url", "a str")?, prefix.named("prefix", "a str")?.to_owned());
        let timeout = positive_seconds(py, "timeout", timeout)?;
        let connect_timeout = positive_seconds(py, "connect_timeout", connect_timeout)?;
        let min_age = seconds(py, "min_age", min_age)?;
        let min_replicas = between("min_replicas", min_replicas, 0, u32::MAX.into())?;
        let client = match (read("certfile", certfile)?, read("keyfile", keyfile)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(pyo3::exceptions::PyValueError::new_err(
                    "certfile and keyfile belong together: give both or none",
                ));
            }
        };
        let certificates = Certificates { ca: read("ca_certs", ca_certs)?, client };
        let server = Server::new(url, certificates, timeout, connect_timeout).or_raise(py)?;
        Keys::new(&prefix, "default").or_raise(py)?;
        let min_replicas = u32::try_from(min_replicas).unwrap_or(u32::MAX);
        Ok(Self { server, prefix, min_age, min_replicas })
    }

    fn __repr__(&self) -> String {
        format!("<RedisBroker {} prefix={:?}>", self.server.shown, self.prefix)
    }
}
