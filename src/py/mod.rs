//! The Python module `sse_hub._core`: the only place that knows Python. Classes, awaitables, conversion, JSON,
//! exceptions and the wakers of event loops; no logic of the hub.

#![allow(clippy::doc_markdown, reason = "these docs are Python's docstrings, which have no Markdown")]

use pyo3::prelude::*;

mod awaitable;
mod awaiting;
mod broker;
mod convert;
mod descriptors;
pub mod encode;
mod exceptions;
mod exit;
mod fork;
mod handed;
mod hub;
pub mod json;
mod json_kinds;
mod options;
mod publication;
mod reader;
mod request;
#[cfg_attr(not(unix), path = "signal_windows.rs")]
mod signal;
mod subscription;

/// The native part of `sse_hub`.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::broker::PyRedisBroker;
    #[pymodule_export]
    use super::descriptors::{_close, _duplicate, _own, _release};
    #[pymodule_export]
    use super::encode::{EventEncoder, dumps, encode_fields, json_text};
    #[pymodule_export]
    use super::exit::{_end, _flush};
    #[pymodule_export]
    use super::hub::PyHub;
    #[pymodule_export]
    use super::publication::PyPublication;
    #[pymodule_export]
    use super::request::PyRequest;
    #[pymodule_export]
    use super::subscription::PySubscription;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::exit::watch(module)?;
        super::fork::watch()
    }
}
