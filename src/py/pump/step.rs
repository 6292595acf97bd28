//! Driving what Python awaits, one step at a time.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{ffi, intern};

/// ``throw(kind, value)`` of what is awaited: go on with the exception. `None` from `advance` is its end.
pub fn throw(
    kind: Bound<'_, PyAny>,
    value: Option<Bound<'_, PyAny>>,
    advance: impl FnOnce(PyErr) -> PyResult<Option<Py<PyAny>>>,
) -> PyResult<Option<Py<PyAny>>> {
    let error = PyErr::from_value(value.filter(|value| !value.is_none()).unwrap_or(kind));
    match advance(error)? {
        None => Err(PyStopIteration::new_err(())),
        some => Ok(some),
    }
}

/// The result of a step.
pub enum Step {
    /// The task must wait: the value to yield to asyncio for that.
    Waits(Py<PyAny>),
    /// The result.
    Done(Py<PyAny>),
}

/// An asynchronous iterator.
pub struct Source {
    iterator: Py<PyAny>,
    /// The type of its awaitables, once one was seen to be its own iterator, as an async generator's are.
    awaitables: Option<Py<PyType>>,
}

impl Source {
    pub fn new(content: &Bound<'_, PyAny>) -> PyResult<Self> {
        let iterator = content.call_method0(intern!(content.py(), "__aiter__"))?.unbind();
        Ok(Self { iterator, awaitables: None })
    }

    /// Begin to await the next item.
    pub fn next(&mut self, py: Python<'_>) -> PyResult<Awaited> {
        let awaitable = self.iterator.bind(py).call_method0(intern!(py, "__anext__"))?;
        let class = awaitable.get_type();
        if self.awaitables.as_ref().is_some_and(|known| class.is(known)) {
            return Ok(Awaited(awaitable.unbind()));
        }
        let awaited = Awaited::new(&awaitable)?;
        if awaited.0.is(&awaitable) {
            self.awaitables = Some(class.unbind());
        }
        Ok(awaited)
    }

    pub fn object(&self) -> &Py<PyAny> {
        &self.iterator
    }
}

/// The iterator of an awaitable.
pub struct Awaited(Py<PyAny>);

impl Awaited {
    /// The iterator of `awaitable`.
    pub fn new(awaitable: &Bound<'_, PyAny>) -> PyResult<Self> {
        // SAFETY: a type check of an object that is held.
        let is_coroutine = unsafe { ffi::PyCoro_CheckExact(awaitable.as_ptr()) } != 0;
        if is_coroutine {
            // It takes `send` itself; its `__await__` would only put an object in between.
            return Ok(Self(awaitable.clone().unbind()));
        }
        Ok(Self(awaitable.call_method0(intern!(awaitable.py(), "__await__"))?.unbind()))
    }

    /// Go on to where it waits next, or to its end.
    pub fn step(&self, py: Python<'_>, thrown: Option<PyErr>) -> PyResult<Step> {
        match thrown {
            None => self.send(py),
            Some(error) => self.throw(py, error),
        }
    }

    fn send(&self, py: Python<'_>) -> PyResult<Step> {
        let mut result = std::ptr::null_mut();
        // SAFETY: both arguments are objects that are held; the result is written unless an error is raised.
        let sent = unsafe { ffi::PyIter_Send(self.0.as_ptr(), ffi::Py_None(), &raw mut result) };
        if sent == ffi::PySendResult::PYGEN_ERROR {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: the call returned a new reference.
        let result = unsafe { Bound::from_owned_ptr(py, result) }.unbind();
        Ok(if sent == ffi::PySendResult::PYGEN_NEXT { Step::Waits(result) } else { Step::Done(result) })
    }

    fn throw(&self, py: Python<'_>, error: PyErr) -> PyResult<Step> {
        let Ok(throw) = self.0.bind(py).getattr(intern!(py, "throw")) else { return Err(error) };
        match throw.call1((error.into_value(py),)) {
            Ok(on) => Ok(Step::Waits(on.unbind())),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                Ok(Step::Done(error.value(py).getattr(intern!(py, "value"))?.unbind()))
            }
            Err(error) => Err(error),
        }
    }

    /// End it where it waits.
    pub fn close(self, py: Python<'_>) -> PyResult<()> {
        match self.0.bind(py).getattr(intern!(py, "close")) {
            Ok(close) => close.call0().map(drop),
            Err(_) => Ok(()),
        }
    }

    pub fn object(&self) -> &Py<PyAny> {
        &self.0
    }
}
