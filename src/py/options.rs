//! What Python gives as the options of a hub and of a subscription, checked.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::convert;
use super::exceptions::OrRaise;
use crate::config::{positive_seconds, seconds};
use crate::history::{Past, Retention};
use crate::hub::Request;
use crate::queue::OverflowPolicy;

/// A limit as the core takes it.
pub fn at_least(option: &str, value: i64, least: i64) -> PyResult<usize> {
    if value < least {
        return Err(PyValueError::new_err(format!("{option} must be at least {least}, not {value}")));
    }
    usize::try_from(value).map_err(|_| PyValueError::new_err(format!("{option} is too large: {value}")))
}

pub fn retention(py: Python<'_>, count: i64, bytes: i64, age: Option<f64>) -> PyResult<Retention> {
    Ok(Retention {
        count: at_least("history", count, 0)?,
        bytes: at_least("history_bytes", bytes, 0)?,
        age: age.map(|age| positive_seconds("history_age", age)).transpose().or_raise(py)?,
    })
}

/// The range of `retry:`, from seconds.
pub fn reconnect(py: Python<'_>, (least, most): (f64, f64)) -> PyResult<(u64, u64)> {
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

/// A newcomer's past.
pub fn past(replay: &Bound<'_, PyAny>) -> PyResult<Option<Past>> {
    if let Ok(word) = replay.cast::<PyString>() {
        if word.to_str()? == "all" {
            return Ok(Some(Past::All));
        }
    } else if let Ok(n) = replay.extract::<i64>() {
        return Ok(Some(at_least("replay", n, 0)?).filter(|&n| n > 0).map(Past::Last));
    }
    Err(PyValueError::new_err(format!("replay must be a number of events or 'all', not {}", replay.repr()?)))
}

/// What a subscriber asks for, checked.
pub fn request(
    topics: &Bound<'_, PyAny>,
    replay: &Bound<'_, PyAny>,
    overflow: Option<&str>,
    capacity: Option<i64>,
    max_age: Option<f64>,
) -> PyResult<Request> {
    let py = topics.py();
    Ok(Request {
        topics: convert::topics(topics)?,
        past: past(replay)?,
        overflow: overflow.map(OverflowPolicy::parse).transpose().or_raise(py)?,
        capacity: capacity.map(|value| at_least("capacity", value, 1)).transpose()?,
        max_age: max_age.map(|value| positive_seconds("max_age", value)).transpose().or_raise(py)?,
        ..Request::default()
    })
}
