//! The sse-starlette classes' encoding: Python fields in, wire bytes out, in one call.
//!
//! The rules are those of sse-starlette 3.7, byte for byte. What they share with the hub's rules is in
//! [`crate::frame`], which encodes everything else. This file reads Python objects, and implements what only
//! sse-starlette's classes allow: the application's own ids, CR LF line ends, and fields in sse-starlette's order.

use std::cell::Cell;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyMemoryView, PyString, PyType};

use super::arguments::wrong_type;
use super::json;
use crate::frame;

/// A buffer larger than this is not kept for the next event.
const KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    /// The buffer of the last event encoded on this thread: events are short and many.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `write` on an empty buffer and passes what it wrote to `finish`.
///
/// The buffer is taken out while it is in use, because `write` may run Python code, which may encode.
fn with_buffer<R>(
    write: impl FnOnce(&mut Vec<u8>) -> PyResult<()>,
    finish: impl FnOnce(&[u8]) -> PyResult<R>,
) -> PyResult<R> {
    let mut buffer = SCRATCH.take();
    buffer.clear();
    let result = write(&mut buffer).and_then(|()| finish(&buffer));
    if buffer.capacity() <= KEPT_BYTES {
        SCRATCH.set(buffer);
    }
    result
}

/// The fields of one event, checked and turned into text.
#[derive(Default)]
struct Fields<'py> {
    comment: Option<Bound<'py, PyString>>,
    id: Option<Bound<'py, PyString>>,
    event: Option<Bound<'py, PyString>>,
    data: Option<Bound<'py, PyString>>,
    retry: Option<Bound<'py, PyAny>>,
}

impl<'py> Fields<'py> {
    /// Reads a dict of fields; `None` when it has a key that is not a field's name.
    fn of_dict(dict: &Bound<'py, PyDict>) -> PyResult<Option<Self>> {
        let py = dict.py();
        let take = |name: &Bound<'py, PyString>| dict.get_item(name);
        let (mut known, mut fields) = (0, Self::default());
        if let Some(comment) = take(intern!(py, "comment"))? {
            known += 1;
            fields.comment = as_text(comment)?;
        }
        if let Some(id) = take(intern!(py, "id"))? {
            known += 1;
            fields.id = only_str("id", id)?;
        }
        if let Some(event) = take(intern!(py, "event"))? {
            known += 1;
            fields.event = only_str("event", event)?;
        }
        if let Some(data) = take(intern!(py, "data"))? {
            known += 1;
            fields.data = as_text(data)?;
        }
        if let Some(retry) = take(intern!(py, "retry"))? {
            known += 1;
            fields.retry = only_int(retry)?;
        }
        if known < dict.len() {
            known += usize::from(dict.contains(intern!(py, "sep"))?);
        }
        Ok((known == dict.len()).then_some(fields))
    }

    fn write(&self, sep: &str, out: &mut Vec<u8>) -> PyResult<()> {
        if let Some(comment) = &self.comment {
            frame::write_lines(out, ": ", comment.to_str()?, sep);
        }
        if let Some(id) = &self.id {
            frame::write_joined(out, "id: ", id.to_str()?, sep);
        }
        if let Some(event) = &self.event {
            frame::write_joined(out, "event: ", event.to_str()?, sep);
        }
        if let Some(data) = &self.data {
            frame::write_lines(out, "data: ", data.to_str()?, sep);
        }
        if let Some(retry) = &self.retry {
            if retry.is_exact_instance_of::<PyInt>()
                && let Ok(retry) = retry.extract::<i64>()
            {
                frame::write_line(out, "retry: ", itoa::Buffer::new().format(retry).as_bytes(), sep);
            } else {
                // A bool, an enum or a very large number: as an f-string shows it.
                let shown = retry.call_method1(intern!(retry.py(), "__format__"), ("",))?;
                frame::write_line(out, "retry: ", shown.cast::<PyString>()?.to_str()?.as_bytes(), sep);
            }
        }
        out.extend_from_slice(sep.as_bytes());
        Ok(())
    }

    fn encode(&self, py: Python<'py>, sep: &str) -> PyResult<Bound<'py, PyBytes>> {
        with_buffer(|out| self.write(sep, out), |bytes| Ok(PyBytes::new(py, bytes)))
    }
}

/// `str(value)`, or nothing for None.
fn as_text(value: Bound<'_, PyAny>) -> PyResult<Option<Bound<'_, PyString>>> {
    if value.is_none() {
        return Ok(None);
    }
    match value.cast_into_exact::<PyString>() {
        Ok(text) => Ok(Some(text)),
        Err(other) => other.into_inner().str().map(Some),
    }
}

fn only_str<'py>(field: &str, value: Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyString>>> {
    if value.is_none() {
        return Ok(None);
    }
    match value.cast_into::<PyString>() {
        Ok(text) => Ok(Some(text)),
        Err(other) => {
            let class = other.into_inner().get_type().name()?.to_string();
            Err(PyTypeError::new_err(format!("{field} must be str or None, not {class}")))
        }
    }
}

fn line_end<'a, 'py>(sep: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyString>> {
    sep.cast().map_err(|_| wrong_type(sep, "sep is a str"))
}

fn only_int(value: Bound<'_, PyAny>) -> PyResult<Option<Bound<'_, PyAny>>> {
    if value.is_none() {
        Ok(None)
    } else if value.is_instance_of::<PyInt>() {
        Ok(Some(value))
    } else {
        Err(PyTypeError::new_err("retry argument must be int"))
    }
}

// Encodes an event of these fields, the lines ended by `sep`; None is a field that is not sent.
//
// Raises `TypeError` for an id or event that is not a str and a retry that is not an int,
// `UnicodeEncodeError` for lone surrogates, and what `str()` of the data or comment raises.
#[pyfunction]
pub fn encode_fields<'py>(
    comment: Bound<'py, PyAny>,
    id: Bound<'py, PyAny>,
    event: Bound<'py, PyAny>,
    data: Bound<'py, PyAny>,
    retry: Bound<'py, PyAny>,
    sep: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let sep = line_end(sep)?;
    // In sse-starlette's order, so that the same one of several mistakes is reported.
    let fields = Fields {
        comment: as_text(comment)?,
        id: only_str("id", id)?,
        event: only_str("event", event)?,
        data: as_text(data)?,
        retry: only_int(retry)?,
    };
    fields.encode(sep.py(), sep.to_str()?)
}

// The JSON text of a value: what `json.dumps(value, ensure_ascii=False, allow_nan=False,
// separators=(",", ":"))` returns.
//
// Raises `TypeError`, `ValueError` and `RecursionError` as `json.dumps` does, and `UnicodeEncodeError` for
// lone surrogates.
#[pyfunction]
pub fn dumps<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    let py = value.py();
    with_buffer(|out| json::write_json_strict(value, out), |text| PyString::from_bytes(py, text))
}

// The JSON text of a value by the hub's rules: as FastAPI publishes it, see `json`.
//
// Raises `TypeError` for a class without a JSON form, `ValueError` for NaN, infinity and a value inside
// itself, `UnicodeEncodeError` for lone surrogates, and `RecursionError` beyond a depth of 1,000.
#[pyfunction]
pub fn json_text<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    let py = value.py();
    with_buffer(|out| json::write_json(value, out), |text| PyString::from_bytes(py, text))
}

// Turns whatever a generator yields into wire bytes, knowing the classes of its event objects.
#[pyclass(frozen, module = "sse_hub._core")]
pub struct EventEncoder {
    class: Py<PyType>,
    init: Py<PyAny>,
    encode: Py<PyAny>,
    json_class: Py<PyType>,
}

#[pymethods]
impl EventEncoder {
    // `event_class` is constructed with the keyword arguments `comment`, `id`, `event`, `data`, `retry` and
    // `sep`, and has `encode()`. The work of its present `__init__` and `encode` may be done here instead;
    // once a user has replaced one of them, the replacement is called. `json_class` is its subclass
    // whose data is JSON.
    #[new]
    fn new(py: Python<'_>, event_class: Bound<'_, PyType>, json_class: Py<PyType>) -> PyResult<Self> {
        Ok(Self {
            init: event_class.getattr(intern!(py, "__init__"))?.unbind(),
            encode: event_class.getattr(intern!(py, "encode"))?.unbind(),
            class: event_class.unbind(),
            json_class,
        })
    }

    // The JSON text of `data`, as `dumps` returns it, for a JSON event under construction whose parent's
    // `__init__` need not be called. None when it must be: `data` is None, `event` is of a subclass, or a
    // user has replaced that `__init__`.
    //
    // Raises as `dumps` does.
    fn plain_json<'py>(
        &self,
        event: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyString>>> {
        let py = data.py();
        let plain = event.get_type().is(&self.json_class)
            && self.class.bind(py).getattr(intern!(py, "__init__"))?.is(&self.init);
        if plain && !data.is_none() { dumps(data).map(Some) } else { Ok(None) }
    }

    // Encodes one item: bytes and memoryviews pass through, an event object encodes itself, a dict contains the
    // fields of an event, anything else is the data of one, by `str()`. `sep` ends the lines of the last two.
    //
    // Raises `TypeError` for a dict with a key that is not a field's name, and what encoding an event raises.
    fn ensure_bytes<'py>(
        &self,
        data: &Bound<'py, PyAny>,
        sep: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, sep) = (data.py(), line_end(sep)?);
        if data.is_exact_instance_of::<PyBytes>() {
            return Ok(data.clone());
        }
        if let Ok(text) = data.cast_exact::<PyString>() {
            return self.text(text, sep);
        }
        if let Ok(dict) = data.cast_exact::<PyDict>() {
            return self.dict(dict, sep);
        }
        if data.is_instance_of::<PyBytes>() || data.is_instance_of::<PyMemoryView>() {
            return py.get_type::<PyBytes>().call1((data,));
        }
        if data.is_instance(self.class.bind(py))? {
            return data.call_method0(intern!(py, "encode"));
        }
        if let Ok(dict) = data.cast::<PyDict>() {
            return self.construct(dict, sep);
        }
        self.text(&data.str()?, sep)
    }
}

impl EventEncoder {
    /// Append the bytes of one item, as `ensure_bytes` returns them. What was appended before an error stays.
    pub fn append(
        &self,
        item: &Bound<'_, PyAny>,
        sep: &Bound<'_, PyString>,
        out: &mut Vec<u8>,
    ) -> PyResult<()> {
        let py = item.py();
        if let Ok(bytes) = item.cast_exact::<PyBytes>() {
            out.extend_from_slice(bytes.as_bytes());
            return Ok(());
        }
        if let Ok(dict) = item.cast_exact::<PyDict>() {
            if self.is_pristine(py)?
                && let Some(fields) = Fields::of_dict(dict)?
            {
                return fields.write(sep.to_str()?, out);
            }
        } else if item.is_exact_instance_of::<PyString>() && self.is_pristine(py)? {
            let fields = Fields { data: as_text(item.clone())?, ..Fields::default() };
            return fields.write(sep.to_str()?, out);
        }
        let bytes = self.ensure_bytes(item, sep)?;
        match bytes.cast::<PyBytes>() {
            Ok(bytes) => out.extend_from_slice(bytes.as_bytes()),
            // A user's own `encode` may return another kind of buffer; anything else is a TypeError.
            Err(_) => out.extend_from_slice(&PyBuffer::<u8>::get(&bytes)?.to_vec(py)?),
        }
        Ok(())
    }

    /// Whether the class still does what this encoder does in its place.
    fn is_pristine(&self, py: Python<'_>) -> PyResult<bool> {
        let class = self.class.bind(py);
        Ok(class.getattr(intern!(py, "__init__"))?.is(&self.init)
            && class.getattr(intern!(py, "encode"))?.is(&self.encode))
    }

    fn text<'py>(
        &self,
        text: &Bound<'py, PyString>,
        sep: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = text.py();
        if self.is_pristine(py)? {
            // `str()` once more: what `str()` returns may be a subclass with a `__str__` of its own.
            let fields = Fields { data: as_text(text.clone().into_any())?, ..Fields::default() };
            return Ok(fields.encode(py, sep.to_str()?)?.into_any());
        }
        let options = PyDict::new(py);
        options.set_item(intern!(py, "sep"), sep)?;
        self.class.bind(py).call((text,), Some(&options))?.call_method0(intern!(py, "encode"))
    }

    fn dict<'py>(
        &self,
        dict: &Bound<'py, PyDict>,
        sep: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if self.is_pristine(dict.py())?
            && let Some(fields) = Fields::of_dict(dict)?
        {
            return Ok(fields.encode(dict.py(), sep.to_str()?)?.into_any());
        }
        self.construct(dict, sep)
    }

    /// The long way: constructs an event of a copy of the dict, which names an unknown field in its error.
    fn construct<'py>(
        &self,
        dict: &Bound<'py, PyDict>,
        sep: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = dict.py();
        let fields = PyDict::new(py);
        fields.update(dict.as_mapping())?;
        fields.set_item(intern!(py, "sep"), sep)?;
        self.class.bind(py).call((), Some(&fields))?.call_method0(intern!(py, "encode"))
    }
}
