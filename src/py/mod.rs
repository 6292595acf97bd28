//! The Python module `sse_hub._core`: the only place that knows Python.
//!
//! ```text
//! process   exit, forks, descriptors, wakers of event loops, the runtime on which Python awaits
//! values    the fields of an event, JSON, options, requests, exceptions
//! pump      a generator's events to a server's connection
//! brokers   the brokers that a hub can be given
//! hub       a hub's generations, its loops' readers, the classes
//! ```
//!
//! Each room imports those above it in this list only, and is given hooks by those below it. What Python's
//! users read of the classes is written in `python/sse_hub/_core.pyi`. Only its first sentences are here too, as `///`,
//! for `help()`; `tests/api/test_package.py` compares the two. Comments by `//` are for maintainers.

#![allow(clippy::doc_markdown, reason = "Python's names in comments, which have no Markdown")]

mod brokers;
mod hub;
mod process;
mod pump;
mod values;

use pyo3::prelude::*;

/// The native part of `sse_hub`.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::brokers::file::PyFileBroker;
    #[pymodule_export]
    use super::brokers::redis::PyRedisBroker;
    #[pymodule_export]
    use super::hub::class::PyHub;
    #[pymodule_export]
    use super::hub::publication::PyPublication;
    #[pymodule_export]
    use super::hub::run_pump::RunPump;
    #[pymodule_export]
    use super::hub::subscription::PySubscription;
    #[pymodule_export]
    use super::process::descriptors::{
        _acknowledged, _close, _duplicate, _limit_unsent, _release, _unacknowledged,
    };
    #[pymodule_export]
    use super::process::exit::{_end, _flush};
    #[pymodule_export]
    use super::pump::Pump;
    #[pymodule_export]
    use super::values::convert::_check_event_name;
    #[pymodule_export]
    use super::values::encode::{EventEncoder, dumps, encode_fields, json_text};
    #[pymodule_export]
    use super::values::request::PyRequest;

    use pyo3::prelude::*;

    use super::brokers::running;
    #[cfg(unix)]
    use super::process::descriptors;
    use super::process::{awaiting, exit, fork, interpreter};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        interpreter::claim(module.py())?;
        // Brokers first: their reports of what could not be sent are logged by the runtime of `awaiting`.
        let steps = exit::Steps {
            at_end: &[running::end, awaiting::end],
            at_flush: &[running::flush, awaiting::end],
        };
        exit::watch(module, steps)?;
        #[cfg(unix)]
        let in_child: &[fn()] = &[exit::in_child, descriptors::close_inherited];
        #[cfg(not(unix))]
        let in_child: &[fn()] = &[];
        fork::watch(in_child)
    }
}
