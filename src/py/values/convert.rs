//! From Python's arguments to the core's values.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyType};

use super::arguments::{surrogate, wrong_type};
use super::exceptions::{OrRaise, invalid_event};
use super::json::write_json;
use super::options::shown;
use crate::broker::letter::Topics;
use crate::event::check_event_type;
use crate::frame::{Draft, FrameBuilder};
use crate::key::Key;
use crate::py::process::exit;
use crate::topic::Topic;
use crate::trace::TraceParent;

/// An argument that may be left out, where None means something else.
pub enum Given<'py> {
    Omitted,
    Value(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given<'py> {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Value(value.to_owned()))
    }
}

/// A topic, or some.
pub fn topics(value: &Bound<'_, PyAny>) -> PyResult<Topics> {
    if let Ok(name) = value.cast::<PyString>() {
        return Ok(Topics::from_buf([topic(name)?]));
    }
    if value.cast::<PyBytes>().is_ok() {
        return Err(wrong_type(value, "a topic is a str"));
    }
    if value.cast::<PyDict>().is_ok() {
        return Err(PyTypeError::new_err(
            "topics is a str or an iterable of str, not dict: the data comes second",
        ));
    }
    let items = value.try_iter().map_err(|_| wrong_type(value, "topics is a str or an iterable of str"))?;
    items
        .map(|item| {
            let item = item?;
            topic(item.cast::<PyString>().map_err(|_| wrong_type(&item, "a topic is a str"))?)
        })
        .collect()
}

fn topic(name: &Bound<'_, PyString>) -> PyResult<Topic> {
    let text = name.to_str().map_err(|error| {
        let refused = PyValueError::new_err(surrogate("a topic's name"));
        refused.set_cause(name.py(), Some(error));
        refused
    })?;
    Topic::new(text).or_raise(name.py())
}

/// The fields of an event, as `publish`, `broadcast` and `send` take them.
///
/// Each of these methods names the fields in its signature. `**fields` in their place would say them once, but `PyO3`
/// collects them in a dict: `publish(topic, data, event=…)` then took 1.72 µs instead of 1.41.
pub struct Fields<'py> {
    pub data: Given<'py>,
    pub raw_data: Option<Bound<'py, PyAny>>,
    pub event: Option<Bound<'py, PyAny>>,
    pub retry: Option<Bound<'py, PyAny>>,
    pub comment: Option<Bound<'py, PyAny>>,
    pub key: Option<Bound<'py, PyAny>>,
}

/// A str as UTF-8; a lone surrogate is refused.
fn utf8<'a>(py: Python<'_>, field: &str, text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    text.to_str().map_err(|error| {
        let refused = invalid_event(py, surrogate(field));
        refused.set_cause(py, Some(error));
        refused
    })
}

/// A field that may be None.
fn text<'a>(py: Python<'_>, field: &str, given: Option<&'a Bound<'_, PyAny>>) -> PyResult<Option<&'a str>> {
    let Some(given) = given else { return Ok(None) };
    match given.cast::<PyString>() {
        Ok(text) => utf8(py, field, text).map(Some),
        Err(_) => Err(wrong_type(given, format_args!("{field} is a str or None"))),
    }
}

/// Check the name of an event.
#[pyfunction]
pub fn _check_event_name(name: &Bound<'_, PyString>) -> PyResult<()> {
    let py = name.py();
    check_event_type(utf8(py, "event", name)?).or_raise(py)
}

/// Raw data as text.
fn raw_text<'a>(py: Python<'_>, raw: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    if let Ok(text) = raw.cast::<PyString>() {
        return utf8(py, "raw_data", text);
    }
    let Ok(bytes) = raw.cast::<PyBytes>() else {
        return Err(wrong_type(raw, "raw_data is a str or UTF-8 bytes"));
    };
    std::str::from_utf8(bytes.as_bytes())
        .map_err(|error| invalid_event(py, format!("raw_data is not UTF-8: {error}")))
}

fn retry_ms(py: Python<'_>, retry: &Bound<'_, PyAny>) -> PyResult<u64> {
    if retry.cast::<PyInt>().is_err() || retry.cast::<PyBool>().is_ok() {
        return Err(wrong_type(retry, "retry is an int of milliseconds"));
    }
    retry.extract::<u64>().map_err(|_| {
        let shown = shown(retry);
        invalid_event(py, format!("retry must be from 0 to 2**64 - 1 milliseconds, not {shown}"))
    })
}

impl<'py> Fields<'py> {
    /// An event given as one value: a `ServerSentEvent`, or anything as JSON.
    pub fn only(value: Bound<'py, PyAny>) -> Self {
        Self { data: Given::Value(value), raw_data: None, event: None, retry: None, comment: None, key: None }
    }

    /// Encode everything but the id.
    pub fn draft(self, py: Python<'py>, trace: Option<TraceParent>) -> PyResult<Draft> {
        let _inside = exit::enter(py);
        if let Given::Value(value) = &self.data
            && !is_plain(value)
            && let Some(class) = class_of(value)?
        {
            let value = value.clone();
            return self.unpack(&value, &class)?.draft(py, trace);
        }
        let event = text(py, "event", self.event.as_ref())?;
        if let Some(name) = event {
            check_event_type(name).or_raise(py)?;
        }
        let retry = self.retry.as_ref().map(|retry| retry_ms(py, retry)).transpose()?;
        let comment = text(py, "comment", self.comment.as_ref())?;
        let mut builder = FrameBuilder::traced(trace.as_ref(), comment, event);
        match (&self.data, &self.raw_data) {
            (Given::Value(data), None) => {
                write_json(data, builder.json()).map_err(|error| as_invalid_event(py, error))?;
            }
            (Given::Omitted, Some(raw)) => builder.text(raw_text(py, raw)?),
            (Given::Value(_), Some(_)) => {
                return Err(PyTypeError::new_err("give data (as JSON) or raw_data (as it is), not both"));
            }
            (Given::Omitted, None) if event.is_some() => {
                let hint = "a browser discards an event without data: give data, or raw_data=\"\"";
                return Err(invalid_event(
                    py,
                    format!("event {:?} has no data; {hint}", event.unwrap_or("")),
                ));
            }
            (Given::Omitted, None) if retry.is_none() && comment.is_none() => {
                return Err(PyTypeError::new_err("nothing to publish: give data or raw_data"));
            }
            (Given::Omitted, None) => {}
        }
        let key = text(py, "key", self.key.as_ref())?;
        let key = key.map(Key::new).transpose().or_raise(py)?;
        Ok(builder.finish(retry).keyed(key))
    }

    /// The fields of a `ServerSentEvent`, `FastAPI`'s or ours, with what they mean there.
    fn unpack(self, value: &Bound<'py, PyAny>, class: &EventClass) -> PyResult<Self> {
        let py = value.py();
        if self.raw_data.is_some() || self.event.is_some() || self.retry.is_some() || self.comment.is_some() {
            return Err(PyTypeError::new_err(
                "a ServerSentEvent has its own event, retry and comment: give no others beside it",
            ));
        }
        let field = |name| -> PyResult<Option<Bound<'py, PyAny>>> {
            Ok(Some(value.getattr(name)?).filter(|field| !field.is_none()))
        };
        if let Some(id) = field(intern!(py, "id"))? {
            return Err(invalid_event(
                py,
                format!(
                    "id={} cannot be set: a hub's ids are its own, so that replay is provable",
                    id.repr()?
                ),
            ));
        }
        let data = field(intern!(py, "data"))?;
        let text =
            |field: Option<Bound<'py, PyAny>>| field.map(|text| text.str().map(Bound::into_any)).transpose();
        let mut fields = Self {
            data: Given::Omitted,
            raw_data: None,
            event: text(field(intern!(py, "event"))?)?,
            retry: field(intern!(py, "retry"))?,
            comment: text(field(intern!(py, "comment"))?)?,
            key: self.key,
        };
        match class {
            EventClass::FastApi => {
                // Its data is JSON, its raw_data text.
                fields.raw_data = field(intern!(py, "raw_data"))?;
                if let Some(data) = data {
                    fields.data = Given::Value(data);
                }
            }
            EventClass::Ours => {
                fields.raw_data = data.map(|data| as_text(&data)).transpose()?.map(Bound::into_any);
            }
        }
        Ok(fields)
    }
}

/// The text of our `ServerSentEvent`'s data, by `str()`, where that is meant to be read: not Python's notation of
/// a dict, a bool or an object.
fn as_text<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    static NOTATION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static ENUM: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = data.py();
    if let Ok(text) = data.cast_exact::<PyString>() {
        return Ok(text.clone());
    }
    let class = data.get_type();
    let is_number = data.is_exact_instance_of::<PyInt>() || data.is_exact_instance_of::<PyFloat>();
    let notation = NOTATION.get_or_try_init(py, || {
        PyResult::Ok(py.get_type::<PyAny>().getattr(intern!(py, "__str__"))?.unbind())
    })?;
    let is_notation = class.getattr(intern!(py, "__str__"))?.is(notation)
        || data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || class.hasattr(intern!(py, "__pydantic_serializer__"))?
        || (data.is_instance(ENUM.import(py, "enum", "Enum")?)? && !data.is_instance_of::<PyString>());
    if is_notation && !is_number {
        return Err(PyTypeError::new_err(format!(
            "a ServerSentEvent's data is text, not {}: for JSON publish the data itself (event=, retry= and \
             comment= beside it) or a JSONServerSentEvent; for Python's notation give str(data)",
            class.name()?
        )));
    }
    data.str()
}

/// Types that are never an event, checked first.
fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
}

/// Whose `ServerSentEvent` a value is.
enum EventClass {
    Ours,
    FastApi,
}

fn class_of(value: &Bound<'_, PyAny>) -> PyResult<Option<EventClass>> {
    static OURS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = value.py();
    if value.is_instance(OURS.import(py, "sse_hub.event", "ServerSentEvent")?)? {
        return Ok(Some(EventClass::Ours));
    }
    // FastAPI is not a dependency: a program that has one of its events has imported it.
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    let modules = modules.cast::<PyDict>()?;
    let is_fastapis = match modules.get_item(intern!(py, "fastapi.sse"))? {
        Some(module) => value.is_instance(&module.getattr(intern!(py, "ServerSentEvent"))?)?,
        None => false,
    };
    Ok(is_fastapis.then_some(EventClass::FastApi))
}

/// A value that JSON cannot represent is an invalid event; a type that JSON cannot represent stays a `TypeError`.
fn as_invalid_event(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyValueError>(py) {
        return error;
    }
    let refused = invalid_event(py, format!("data cannot be written as JSON: {}", error.value(py)));
    refused.set_cause(py, Some(error));
    refused
}
