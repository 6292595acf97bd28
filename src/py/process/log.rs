//! The library's logger, `logging.getLogger("sse_hub")`.

use pyo3::intern;
use pyo3::prelude::*;

/// Log a warning about a hub.
pub fn warn(py: Python<'_>, hub: &str, message: &str) -> PyResult<()> {
    let logger = py.import(intern!(py, "logging"))?.call_method1(intern!(py, "getLogger"), ("sse_hub",))?;
    let text = format!("hub {hub:?}: {message}");
    logger.call_method1(intern!(py, "warning"), ("%s", text)).map(drop)
}
