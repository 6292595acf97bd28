//! Arguments whose errors name them.
//!
//! `PyO3` converts arguments before a method begins, and names the one of a wrong type in a note only
//! (`__notes__`), which `str(error)` and most logs leave out. An [`Argument`] keeps the failure until the method
//! says what the argument is called, and what it takes.

use std::fmt::Display;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

/// The value of an argument, or what was given in its place.
pub struct Argument<T>(Result<T, Wrong>);

enum Wrong {
    /// A value of this type.
    Kind(String),
    Surrogate(PyErr),
    Other(PyErr),
}

impl<T> Argument<T> {
    /// A default.
    pub const fn of(value: T) -> Self {
        Self(Ok(value))
    }

    /// The value, or an exception that names the argument and what it takes.
    pub fn named(self, name: &str, takes: &str) -> PyResult<T> {
        self.0.map_err(|wrong| match wrong {
            Wrong::Kind(kind) => PyTypeError::new_err(format!("{name} is {takes}, not {kind}")),
            Wrong::Surrogate(error) => {
                let refused = PyValueError::new_err(surrogate(name));
                Python::attach(|py| refused.set_cause(py, Some(error)));
                refused
            }
            Wrong::Other(error) => error,
        })
    }
}

/// As [`Argument::named`], for an argument that may be None.
pub fn if_given<T>(given: Option<Argument<T>>, name: &str, takes: &str) -> PyResult<Option<T>> {
    match given {
        None => Ok(None),
        Some(Argument(Ok(value))) => Ok(Some(value)),
        Some(wrong) => wrong.named(name, &format!("{takes} or None")).map(Some),
    }
}

/// The message about a str that UTF-8 cannot carry.
pub fn surrogate(name: &str) -> String {
    format!("{name} has a lone surrogate, which UTF-8 cannot carry")
}

/// The exception for a value of a wrong type.
pub fn wrong_type(given: &Bound<'_, PyAny>, rule: impl Display) -> PyErr {
    PyTypeError::new_err(format!("{rule}, not {}", kind_of(given)))
}

fn kind_of(given: &Bound<'_, PyAny>) -> String {
    given.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string())
}

impl<'a, 'py, T: FromPyObject<'a, 'py>> FromPyObject<'a, 'py> for Argument<T> {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(value.extract().map_err(|error: T::Error| {
            let (py, error) = (value.py(), error.into());
            if error.is_instance_of::<PyTypeError>(py) {
                Wrong::Kind(kind_of(&value))
            } else if error.is_instance_of::<PyUnicodeEncodeError>(py) {
                Wrong::Surrogate(error)
            } else {
                Wrong::Other(error)
            }
        })))
    }
}

/// A number, which a bool is not: `heartbeat=True` would mean every second.
#[derive(Clone, Copy)]
pub struct Number(pub f64);

impl<'a, 'py> FromPyObject<'a, 'py> for Number {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        refuse_bool(value)?;
        match value.extract() {
            Ok(number) => Ok(Self(number)),
            // An int that no float can hold.
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                Ok(Self(if value.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY }))
            }
            Err(error) => Err(error),
        }
    }
}

/// Raise for a bool in place of a number.
pub fn refuse_bool(value: Borrowed<'_, '_, PyAny>) -> PyResult<()> {
    if value.is_instance_of::<PyBool>() { Err(PyTypeError::new_err("a bool")) } else { Ok(()) }
}
