//! Python values to compact JSON, written straight into the buffer of a frame.
//!
//! Two contracts share one writer:
//!
//! * [`write_json`] is the hub's. It takes what FastAPI takes (`fastapi.encoders.jsonable_encoder`): besides
//!   JSON's own types, pydantic models, dataclasses, enums, dates and times, `timedelta` (seconds), `UUID`,
//!   `Decimal` (a number), paths, sets, deques, generators, mappings, UTF-8 `bytes`, IP addresses, compiled
//!   patterns, and pydantic's URLs and secrets. U+0085, U+2028 and U+2029 go out escaped.
//! * [`write_json_strict`] is `json.dumps(value, ensure_ascii=False, allow_nan=False,
//!   separators=(",", ":"))`: the same text and the same kinds of errors. It is for sse-starlette's
//!   `JSONServerSentEvent`, whose bytes are a contract: non-ASCII characters stay as they are, U+2028 included.
//!
//! Where the hub's contract differs from FastAPI's encoder, on purpose: a model goes by its aliases also when
//! it is the whole value; keys that begin with `_sa` stay; NaN and infinity are a `ValueError` and not `null`
//! (inside a model pydantic's own `ser_json_inf_nan` decides); and an object of an unknown class is a
//! `TypeError` that names the class, where FastAPI would publish its `vars()`.
//!
//! Values are read while the interpreter is attached and may run Python code (a subclass's `__iter__`, a
//! property), which may do anything: nothing here holds a lock or a borrow across such a call.

use pyo3::exceptions::{PyRecursionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{ffi, intern};
use smallvec::SmallVec;

use super::json_kinds::{self, Kind};
use super::json_scalars::{write_float, write_string};
use crate::frame;

/// The deepest nesting. The interpreter's own encoder fails at about the same depth.
const MAX_DEPTH: usize = 1000;

/// Appends `value` as compact JSON of one line to `out`, by FastAPI's mapping (see the module's text).
///
/// # Errors
/// `TypeError` for a class JSON has no form for, `ValueError` for NaN, infinity and a value that contains
/// itself, `UnicodeEncodeError` (a `ValueError`) for lone surrogates, `RecursionError` beyond a depth of
/// 1,000, and whatever code of the value's own class raises. `out` then ends in an unfinished text.
pub fn write_json(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    let start = out.len();
    Writer { out, stack: SmallVec::new(), strict: false }.value(value)?;
    // In one pass over everything, because the JSON of pydantic's models needs it as well.
    frame::escape_separators(out, start);
    Ok(())
}

/// Appends `value` as `json.dumps` would write it, compact and with non-ASCII characters kept.
///
/// # Errors
/// As [`write_json`]; `TypeError` also for everything that is not JSON's own type.
pub fn write_json_strict(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    Writer { out, stack: SmallVec::new(), strict: true }.value(value)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// What is being written, from the outside in: each is alive because its parent holds it or we do.
    stack: SmallVec<[*mut ffi::PyObject; 16]>,
    strict: bool,
}

impl Writer<'_> {
    /// Exact types first: they are nearly all of what is sent, and each test is one comparison of pointers.
    #[inline]
    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if value.is_exact_instance_of::<PyString>() {
            // SAFETY: it is an exact str.
            self.string(unsafe { value.cast_unchecked() })
        } else if value.is_exact_instance_of::<PyInt>() {
            self.int(value)
        } else if value.is_exact_instance_of::<PyFloat>() {
            // SAFETY: it is an exact float.
            self.float(unsafe { value.cast_unchecked::<PyFloat>() }.value())
        } else if value.is_none() {
            self.raw("null");
            Ok(())
        } else if value.is_exact_instance_of::<PyBool>() {
            self.raw(if value.is_truthy()? { "true" } else { "false" });
            Ok(())
        } else if value.is_exact_instance_of::<PyDict>() {
            // SAFETY: it is an exact dict.
            self.inside(value, |this| this.dict(unsafe { value.cast_unchecked() }))
        } else if value.is_exact_instance_of::<PyList>() {
            // SAFETY: it is an exact list.
            let list = unsafe { value.cast_unchecked::<PyList>() };
            self.inside(value, |this| this.sequence(list.iter().map(Ok)))
        } else if value.is_exact_instance_of::<PyTuple>() {
            // SAFETY: it is an exact tuple.
            let tuple = unsafe { value.cast_unchecked::<PyTuple>() };
            self.inside(value, |this| this.sequence(tuple.iter().map(Ok)))
        } else if self.strict {
            self.strict_subclass(value)
        } else {
            self.inside(value, |this| this.other(value))
        }
    }

    /// Runs `write` for a value that has values in it: refuses one that is inside itself, or too deep.
    fn inside(
        &mut self,
        value: &Bound<'_, PyAny>,
        write: impl FnOnce(&mut Self) -> PyResult<()>,
    ) -> PyResult<()> {
        if self.stack.contains(&value.as_ptr()) {
            return Err(PyValueError::new_err("Circular reference detected"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(PyRecursionError::new_err(format!(
                "value is nested deeper than {MAX_DEPTH} levels and cannot be written as JSON"
            )));
        }
        self.stack.push(value.as_ptr());
        write(self)?;
        self.stack.pop();
        Ok(())
    }

    /// `json.dumps`'s view of a subclass: the value it would have without being one.
    fn strict_subclass(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = value.cast::<PyString>() {
            self.string(text)
        } else if value.is_instance_of::<PyInt>() {
            self.int(value)
        } else if let Ok(number) = value.cast::<PyFloat>() {
            self.float(number.value())
        } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
            self.inside(value, |this| this.sequence(value.try_iter()?))
        } else if value.is_instance_of::<PyDict>() {
            self.inside(value, |this| this.items(value))
        } else {
            let name = value.get_type().name()?;
            Err(PyTypeError::new_err(format!("Object of type {name} is not JSON serializable")))
        }
    }

    /// Anything that is not exactly one of JSON's own types.
    fn other(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        match json_kinds::kind_of(value)? {
            Kind::Text => self.string(value.cast()?),
            Kind::Int => self.int(value),
            Kind::Float => self.float(value.cast::<PyFloat>()?.value()),
            Kind::Null => {
                self.raw("null");
                Ok(())
            }
            Kind::Mapping => self.items(value),
            Kind::Sequence => self.sequence(value.try_iter()?),
            Kind::Str => self.string(&value.str()?),
            Kind::IsoFormat => self.value(&value.call_method0(intern!(py, "isoformat"))?),
            Kind::Seconds => self.value(&value.call_method0(intern!(py, "total_seconds"))?),
            Kind::Value => self.value(&value.getattr(intern!(py, "value"))?),
            Kind::Pattern => self.value(&value.getattr(intern!(py, "pattern"))?),
            Kind::Bytes => self.value(&value.call_method0(intern!(py, "decode"))?),
            Kind::Decimal => self.value(&json_kinds::decimal_number(value)?),
            Kind::Dataclass => self.dataclass(value),
            Kind::Model => self.model(value),
            Kind::Unknown => Err(PyTypeError::new_err(format!(
                "object of type {} cannot be written as JSON",
                value.get_type().fully_qualified_name()?
            ))),
        }
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &Bound<'_, PyString>) -> PyResult<()> {
        write_string(text.to_str()?, self.out);
        Ok(())
    }

    /// An int or a subclass of int, whose own `__str__` or `__repr__` does not count.
    fn int(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut overflow = 0;
        // SAFETY: `value` is an int, which this call reads without running code of a subclass.
        let small = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &raw mut overflow) };
        if overflow == 0 {
            self.out.extend_from_slice(itoa::Buffer::new().format(small).as_bytes());
            return Ok(());
        }
        let int = value.py().get_type::<PyInt>();
        let digits = int.call_method1(intern!(value.py(), "__repr__"), (value,))?;
        self.raw(digits.cast::<PyString>()?.to_str()?);
        Ok(())
    }

    fn float(&mut self, number: f64) -> PyResult<()> {
        if !number.is_finite() {
            return Err(PyValueError::new_err(format!(
                "Out of range float values are not JSON compliant: {}",
                if number.is_nan() {
                    "nan"
                } else if number > 0.0 {
                    "inf"
                } else {
                    "-inf"
                }
            )));
        }
        write_float(number, self.out);
        Ok(())
    }

    fn sequence<'py>(&mut self, items: impl Iterator<Item = PyResult<Bound<'py, PyAny>>>) -> PyResult<()> {
        self.out.push(b'[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(&item?)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        self.out.push(b'{');
        let entries = entries(dict);
        for (index, (key, value)) in entries.iter().enumerate() {
            self.entry(index, key, value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// A mapping that is not exactly a dict: by its own `items()`.
    fn items(&mut self, mapping: &Bound<'_, PyAny>) -> PyResult<()> {
        self.out.push(b'{');
        let items = mapping.call_method0(intern!(mapping.py(), "items"))?;
        for (index, item) in items.try_iter()?.enumerate() {
            let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
            self.entry(index, &key, &value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn entry(&mut self, index: usize, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if index > 0 {
            self.out.push(b',');
        }
        self.key(key)?;
        self.out.push(b':');
        self.value(value)
    }

    /// A key, always as a string: what is not one is written as JSON writes it, in quotes.
    fn key(&mut self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast_exact::<PyString>() {
            return self.string(text);
        }
        let scalar = key.is_none()
            || key.is_exact_instance_of::<PyBool>()
            || key.is_exact_instance_of::<PyInt>()
            || key.is_exact_instance_of::<PyFloat>();
        if scalar {
            return self.quoted(key);
        }
        if self.strict {
            return self.strict_key(key);
        }
        let py = key.py();
        match json_kinds::kind_of(key)? {
            Kind::Text => self.string(key.cast()?),
            Kind::Int | Kind::Float | Kind::Null => self.quoted(key),
            Kind::Str => self.string(&key.str()?),
            Kind::IsoFormat => self.key(&key.call_method0(intern!(py, "isoformat"))?),
            Kind::Seconds => self.key(&key.call_method0(intern!(py, "total_seconds"))?),
            // Through `inside`, because an enum's value may be anything, an enum again included.
            Kind::Value => self.inside(key, |this| this.key(&key.getattr(intern!(py, "value"))?)),
            Kind::Pattern => self.inside(key, |this| this.key(&key.getattr(intern!(py, "pattern"))?)),
            Kind::Bytes => self.key(&key.call_method0(intern!(py, "decode"))?),
            Kind::Decimal => self.key(&json_kinds::decimal_number(key)?),
            Kind::Mapping | Kind::Sequence | Kind::Dataclass | Kind::Model | Kind::Unknown => {
                Err(PyTypeError::new_err(format!(
                    "keys must be str, int, float, bool, None, or a scalar such as a date, a UUID or an enum, \
                     not {}",
                    key.get_type().fully_qualified_name()?
                )))
            }
        }
    }

    fn strict_key(&mut self, key: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast::<PyString>() {
            self.string(text)
        } else if key.is_instance_of::<PyInt>() || key.is_instance_of::<PyFloat>() {
            self.quoted(key)
        } else {
            let name = key.get_type().name()?;
            Err(PyTypeError::new_err(format!("keys must be str, int, float, bool or None, not {name}")))
        }
    }

    fn quoted(&mut self, scalar: &Bound<'_, PyAny>) -> PyResult<()> {
        self.out.push(b'"');
        self.value(scalar)?;
        self.out.push(b'"');
        Ok(())
    }

    /// The fields of a dataclass, pydantic's dataclasses included, as `dataclasses.asdict` names them.
    fn dataclass(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let fields = json_kinds::dataclass_fields(py)?.bind(py).call1((value,))?;
        self.out.push(b'{');
        for (index, field) in fields.try_iter()?.enumerate() {
            let name = field?.getattr(intern!(py, "name"))?;
            let attribute = value.getattr(name.cast::<PyString>()?)?;
            self.entry(index, &name, &attribute)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    /// A pydantic model: its own serialiser writes JSON of one line, by alias, as FastAPI's responses are.
    fn model(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        static BY_ALIAS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        let py = value.py();
        let by_alias = BY_ALIAS.get_or_try_init(py, || {
            let options = PyDict::new(py);
            options.set_item("by_alias", true)?;
            PyResult::Ok(options.unbind())
        })?;
        let serializer = value.get_type().getattr(intern!(py, "__pydantic_serializer__"))?;
        let json = serializer.call_method(intern!(py, "to_json"), (value,), Some(by_alias.bind(py)))?;
        self.out.extend_from_slice(json.cast::<PyBytes>()?.as_bytes());
        Ok(())
    }
}

type Entries<'py> = SmallVec<[(Bound<'py, PyAny>, Bound<'py, PyAny>); 8]>;

/// The entries of a dict at one moment, with references of our own: a key's or value's own code, or another thread,
/// may change the dict while they are written.
fn entries<'py>(dict: &Bound<'py, PyDict>) -> Entries<'py> {
    let mut entries = Entries::new();
    with_critical_section(dict.as_any(), || {
        entries.reserve(dict.len());
        let mut position: ffi::Py_ssize_t = 0;
        let mut key = std::ptr::null_mut();
        let mut value = std::ptr::null_mut();
        // SAFETY: the dict is alive and, without a GIL, inside a critical section, in which nothing else runs.
        // The call returns borrowed references, which become owned at once.
        unsafe {
            while ffi::PyDict_Next(dict.as_ptr(), &raw mut position, &raw mut key, &raw mut value) != 0 {
                let key = Bound::from_borrowed_ptr(dict.py(), key);
                entries.push((key, Bound::from_borrowed_ptr(dict.py(), value)));
            }
        }
    });
    entries
}
