//! `_Request`: what a subscriber asks for, checked when it is made, before anything is subscribed.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::arguments::{Argument, Number, if_given, wrong_type};
use super::convert;
use super::exceptions::OrRaise;
use super::options::{self, Whole, at_least_if_given, limit, positive_seconds_if_given};
use crate::config::moment;
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
                        rate=None, control=Argument::of(true), format=None, whole=false),
           text_signature = "(topics, *, replay, user, overflow, capacity, max_age, initial, expires=None, rate=None, control=True, format=None, whole=False)")]
    #[allow(clippy::too_many_arguments, reason = "the options of a subscription, all by keyword")]
    fn new(
        topics: &Bound<'_, PyAny>,
        replay: &Bound<'_, PyAny>,
        user: Option<Argument<&str>>,
        overflow: Option<Argument<&str>>,
        capacity: Option<Argument<Whole>>,
        max_age: Option<Argument<Number>>,
        initial: bool,
        expires: Option<f64>,
        rate: Option<Argument<Number>>,
        control: Argument<bool>,
        format: Option<Argument<&str>>,
        whole: bool,
    ) -> PyResult<Self> {
        let py = topics.py();
        Ok(Self(Request {
            topics: convert::topics(topics)?.into_vec(),
            past: past(replay)?,
            initial,
            no_control: !control.named("control", "True or False")?,
            follows_run: whole,
            format: if_given(format, "format", "a str")?.map(self::format).transpose()?,
            user: if_given(user, "user", "a str")?.map(Into::into),
            overflow: if_given(overflow, "overflow", "a str")?
                .map(OverflowPolicy::parse)
                .transpose()
                .or_raise(py)?,
            capacity: at_least_if_given("capacity", capacity, 1)?,
            interval: options::interval(py, rate)?,
            max_age: positive_seconds_if_given(py, "max_age", max_age)?,
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
    let rule = "replay must be a number of events or 'all'";
    if let Ok(word) = replay.cast::<PyString>() {
        return match word.to_str() {
            Ok("all") => Ok(Some(Past::All)),
            _ => Err(PyValueError::new_err(format!("{rule}, not {}", replay.repr()?))),
        };
    }
    match replay.extract::<Whole>() {
        Ok(n) => Ok(Some(limit("replay", n, 0, i64::MAX)?).filter(|&n| n > 0).map(Past::Last)),
        Err(_) => Err(wrong_type(replay, "replay is an int or 'all'")),
    }
}
