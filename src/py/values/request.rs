//! `_Request`: what a subscriber asks for, checked when it is made, before anything is subscribed.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::convert;
use super::exceptions::OrRaise;
use super::options::{Rate, Whole, at_least};
use crate::config::{moment, positive_seconds};
use crate::ending::Format;
use crate::history::Past;
use crate::hub::Request;
use crate::ids::{GroupId, SubscriberId};
use crate::queue::OverflowPolicy;
use crate::topic::Topic;

// What a subscriber asks for, except for its last id.
//
// Raises ValueError for a topic's name or an option that breaks a rule.
#[pyclass(frozen, name = "_Request", module = "sse_hub._core")]
pub struct PyRequest(Request);

#[pymethods]
impl PyRequest {
    #[new]
    #[pyo3(signature = (topics, *, replay, user, overflow, capacity, max_age, initial, expires=None,
                        rate=None, control=true, format=None, whole=false))]
    #[allow(clippy::too_many_arguments, reason = "the options of a subscription, all by keyword")]
    fn new(
        topics: &Bound<'_, PyAny>,
        replay: &Bound<'_, PyAny>,
        user: Option<&str>,
        overflow: Option<&str>,
        capacity: Option<Whole>,
        max_age: Option<f64>,
        initial: bool,
        expires: Option<f64>,
        rate: Option<Rate>,
        control: bool,
        format: Option<&str>,
        whole: bool,
    ) -> PyResult<Self> {
        let py = topics.py();
        Ok(Self(Request {
            topics: convert::topics(topics)?.into_vec(),
            past: past(replay)?,
            initial,
            no_control: !control,
            follows_run: whole,
            format: format.map(self::format).transpose()?,
            user: user.map(Into::into),
            overflow: overflow.map(OverflowPolicy::parse).transpose().or_raise(py)?,
            capacity: capacity.map(|value| at_least("capacity", value, 1)).transpose()?,
            interval: rate.map(|rate| rate.interval(py)).transpose()?,
            max_age: max_age.map(|value| positive_seconds("max_age", value)).transpose().or_raise(py)?,
            expires: expires.map(|value| moment("expires", value)).transpose().or_raise(py)?,
            ..Request::default()
        }))
    }

    #[getter]
    fn _topics(&self) -> Vec<&str> {
        self.0.topics.iter().map(Topic::as_str).collect()
    }

    #[getter]
    fn _user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    #[getter]
    fn _user_room(&self) -> Option<usize> {
        self.0.user_room
    }

    // The same where its user may have so many streams in this process.
    fn _with_room(&self, streams: usize) -> Self {
        Self(Request { user_room: Some(streams), ..self.0.clone() })
    }

    // The same with an id of its own, with which it claims a place among its user's streams.
    fn _claiming(&self) -> Self {
        Self(Request { claim: Some(SubscriberId::random()), ..self.0.clone() })
    }

    // The same for a client that takes gzip, and was sent the header of the body.
    fn _compressed(&self) -> Self {
        Self(Request { compress: true, ..self.0.clone() })
    }

    // The same for some of its topics.
    fn _within(&self, allowed: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut topics = Vec::new();
        for topic in &self.0.topics {
            if allowed.contains(topic.as_str())? {
                topics.push(topic.clone());
            }
        }
        Ok(Self(Request { topics, ..self.0.clone() }))
    }
}

impl PyRequest {
    /// When its authorization expires, since the Unix epoch.
    pub fn expires(&self) -> Option<Duration> {
        self.0.expires
    }

    /// The id with which it claims a place among the streams of its user, and that user.
    pub fn claim(&self) -> Option<(SubscriberId, &Arc<str>)> {
        self.0.claim.zip(self.0.user.as_ref())
    }

    /// The request of one client of this group.
    pub fn of(&self, last_event_id: Option<String>, group: GroupId) -> Request {
        Request { last_event_id, group, ..self.0.clone() }
    }
}

fn format(name: &str) -> PyResult<Format> {
    Format::parse(name).ok_or_else(|| {
        PyValueError::new_err(format!("format must be None, 'ai-sdk', 'openai' or 'ag-ui', not {name:?}"))
    })
}

/// A newcomer's past.
fn past(replay: &Bound<'_, PyAny>) -> PyResult<Option<Past>> {
    if let Ok(word) = replay.cast::<PyString>() {
        if word.to_str()? == "all" {
            return Ok(Some(Past::All));
        }
    } else if let Ok(n) = replay.extract::<Whole>() {
        return Ok(Some(at_least("replay", n, 0)?).filter(|&n| n > 0).map(Past::Last));
    }
    Err(PyValueError::new_err(format!("replay must be a number of events or 'all', not {}", replay.repr()?)))
}
