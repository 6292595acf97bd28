//! The options of a hub as Python passes them, checked.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList};

use super::exceptions::OrRaise;
use crate::config::{interval, positive_seconds, seconds};
use crate::history::Retention;

/// A whole number of any size, so that the error for one beyond the machine's range names the option and its rule.
pub enum Whole {
    Small(i64),
    Huge { is_negative: bool, shown: String },
}

impl<'a, 'py> FromPyObject<'a, 'py> for Whole {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let beyond = match value.extract::<i64>() {
            Ok(number) => return Ok(Self::Small(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => value,
            Err(error) => return Err(error),
        };
        let number = beyond.call_method0("__index__")?;
        Ok(Self::Huge { is_negative: number.lt(0)?, shown: shown(&number) })
    }
}

/// A number in an error's words: Python writes none of more than 4,300 digits.
pub fn shown(number: &Bound<'_, PyAny>) -> String {
    number.str().map_or_else(|_| "one of thousands of digits".into(), |text| text.to_string())
}

/// A limit as the core accepts it.
pub fn at_least(option: &str, value: Whole, least: i64) -> PyResult<usize> {
    between(option, value, least, i64::MAX)
}

/// As [`at_least`], with a maximum.
pub fn between(option: &str, value: Whole, least: i64, most: i64) -> PyResult<usize> {
    let most = most.min(i64::try_from(isize::MAX).unwrap_or(i64::MAX));
    let (is_less, shown) = match value {
        Whole::Small(number) => match usize::try_from(number) {
            Ok(limit) if (least..=most).contains(&number) => return Ok(limit),
            _ => (number < least, number.to_string()),
        },
        Whole::Huge { is_negative, shown } => (is_negative, shown),
    };
    let (bound, value) = if is_less { ("at least", least) } else { ("at most", most) };
    Err(PyValueError::new_err(format!("{option} must be {bound} {value}, not {shown}")))
}

pub fn retention(py: Python<'_>, count: Whole, bytes: Whole, age: Option<f64>) -> PyResult<Retention> {
    Ok(Retention {
        count: at_least("history", count, 0)?,
        bytes: at_least("history_bytes", bytes, 0)?,
        age: age.map(|age| positive_seconds("history_age", age)).transpose().or_raise(py)?,
    })
}

/// Writes a second.
pub struct Rate(f64);

impl<'a, 'py> FromPyObject<'a, 'py> for Rate {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        // `rate=True` would mean once a second.
        if value.is_instance_of::<PyBool>() {
            return Err(PyTypeError::new_err("must be a number of writes a second, not bool"));
        }
        match value.extract() {
            Ok(rate) => Ok(Self(rate)),
            // An int that no float can hold.
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
                Ok(Self(if value.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY }))
            }
            Err(error) => Err(error),
        }
    }
}

impl Rate {
    /// The shortest time between two writes.
    pub fn interval(&self, py: Python<'_>) -> PyResult<Duration> {
        interval(self.0).or_raise(py)
    }
}

/// A minimum and a maximum: a tuple or a list of two numbers.
pub struct Range(f64, f64);

impl<'a, 'py> FromPyObject<'a, 'py> for Range {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match value.cast::<PyList>() {
            Ok(list) => list.to_tuple().extract::<(f64, f64)>(),
            Err(_) => value.extract(),
        }
        .map(|(least, most)| Self(least, most))
    }
}

/// The range of `retry:`, from seconds.
pub fn reconnect(py: Python<'_>, Range(least, most): Range) -> PyResult<(u64, u64)> {
    let millis = |value| -> PyResult<u64> {
        let duration = seconds("reconnect", value).or_raise(py)?;
        Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    let (low, high) = (millis(least)?, millis(most)?);
    if low > high {
        return Err(PyValueError::new_err(format!("reconnect must be (least, most), not ({least}, {most})")));
    }
    Ok((low, high))
}
