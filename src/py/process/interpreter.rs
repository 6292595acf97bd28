//! The interpreter. What this module keeps in statics (classes, interned names, functions) belongs to the first
//! interpreter that imports it; in another one, it would be of other classes there, and gone when the first one ends.

use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// No interpreter's number.
const NONE: i64 = -1;

/// The number of the interpreter that imported the module first. Only one that comes after `Py_Finalize` gets it again.
/// Relaxed: nothing else is published by it.
static FIRST: AtomicI64 = AtomicI64::new(NONE);

/// Refuse all interpreters of the process but the first. From 3.12 on, Python itself refuses a module that does not
/// support several, but only in interpreters that are isolated.
pub fn claim(py: Python<'_>) -> PyResult<()> {
    // SAFETY: this thread is attached to an interpreter.
    let here = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if here < 0 {
        return Err(PyErr::fetch(py));
    }
    match FIRST.compare_exchange(NONE, here, Ordering::Relaxed, Ordering::Relaxed) {
        Err(first) if first != here => Err(PyImportError::new_err(
            "sse_hub was imported in another interpreter of this process, and works in one of them only",
        )),
        _ => Ok(()),
    }
}
