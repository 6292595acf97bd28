//! The options of a hub as Python passes them, checked.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::arguments::{Argument, Number, if_given, refuse_bool, wrong_type};
use super::exceptions::OrRaise;
use crate::config;
use crate::history::Retention;

const AN_INT: &str = "an int";
const SECONDS: &str = "a number of seconds";

/// A whole number of any size, so that the error for one beyond the machine's range names the option and its rule.
pub enum Whole {
    Small(i64),
    Huge { is_negative: bool, shown: String },
}

impl<'a, 'py> FromPyObject<'a, 'py> for Whole {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        refuse_bool(value)?;
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
pub fn at_least(option: &str, value: Argument<Whole>, least: i64) -> PyResult<usize> {
    between(option, value, least, i64::MAX)
}

/// As [`at_least`], for a limit that may be None.
pub fn at_least_if_given(
    option: &str,
    value: Option<Argument<Whole>>,
    least: i64,
) -> PyResult<Option<usize>> {
    let value = if_given(value, option, AN_INT)?;
    value.map(|value| limit(option, value, least, i64::MAX)).transpose()
}

/// As [`at_least`], with a maximum.
pub fn between(option: &str, value: Argument<Whole>, least: i64, most: i64) -> PyResult<usize> {
    limit(option, value.named(option, AN_INT)?, least, most)
}

/// As [`between`], for a value that is an int for certain.
pub fn limit(option: &str, value: Whole, least: i64, most: i64) -> PyResult<usize> {
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

/// Seconds, from 0.
pub fn seconds(py: Python<'_>, option: &str, value: Argument<Number>) -> PyResult<Duration> {
    config::seconds(option, value.named(option, SECONDS)?.0).or_raise(py)
}

/// Seconds, more than 0.
pub fn positive_seconds(py: Python<'_>, option: &str, value: Argument<Number>) -> PyResult<Duration> {
    config::positive_seconds(option, value.named(option, SECONDS)?.0).or_raise(py)
}

/// As [`positive_seconds`], for an option that may be None.
pub fn positive_seconds_if_given(
    py: Python<'_>,
    option: &str,
    value: Option<Argument<Number>>,
) -> PyResult<Option<Duration>> {
    let value = if_given(value, option, SECONDS)?;
    value.map(|value| config::positive_seconds(option, value.0)).transpose().or_raise(py)
}

pub fn retention(
    py: Python<'_>,
    count: Argument<Whole>,
    bytes: Argument<Whole>,
    age: Option<Argument<Number>>,
) -> PyResult<Retention> {
    Ok(Retention {
        count: at_least("history", count, 0)?,
        bytes: at_least("history_bytes", bytes, 0)?,
        age: positive_seconds_if_given(py, "history_age", age)?,
    })
}

/// The shortest time between two writes, from how many there may be in a second.
pub fn interval(py: Python<'_>, rate: Option<Argument<Number>>) -> PyResult<Option<Duration>> {
    let rate = if_given(rate, "rate", "a number of writes a second")?;
    rate.map(|rate| config::interval(rate.0)).transpose().or_raise(py)
}

/// The range of `retry:`, from seconds: a tuple or a list of two numbers.
pub fn reconnect(given: &Bound<'_, PyAny>) -> PyResult<(u64, u64)> {
    let py = given.py();
    let pair = given.cast::<PyList>().map_or_else(|_| given.clone(), |list| list.to_tuple().into_any());
    let rule = "reconnect is a pair of numbers of seconds, (least, most)";
    let (Number(least), Number(most)) = pair.extract().map_err(|error: PyErr| {
        let Ok(shown) = pair.cast::<PyTuple>().map_err(PyErr::from).and_then(|pair| pair.repr()) else {
            return wrong_type(given, rule);
        };
        let message = format!("{rule}, not {shown}");
        if error.is_instance_of::<PyTypeError>(py) {
            PyTypeError::new_err(message)
        } else {
            PyValueError::new_err(message)
        }
    })?;
    let millis = |value| -> PyResult<u64> {
        let duration = config::seconds("reconnect", value).or_raise(py)?;
        Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    let (low, high) = (millis(least)?, millis(most)?);
    if low > high {
        return Err(PyValueError::new_err(format!("reconnect must be (least, most), not ({least}, {most})")));
    }
    Ok((low, high))
}
