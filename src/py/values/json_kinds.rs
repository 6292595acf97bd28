//! How a Python value that is not JSON's own is written as JSON.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

/// The form a value takes in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A subclass of str, by its characters.
    Text,
    /// An int or a subclass.
    Int,
    /// A float or a subclass.
    Float,
    /// `null`.
    Null,
    /// An object, by `items()`.
    Mapping,
    /// An array, by iteration.
    Sequence,
    /// A string, by `str()`.
    Str,
    /// A string, by `isoformat()`.
    IsoFormat,
    /// A number, by `total_seconds()`.
    Seconds,
    /// What `.value` is.
    Value,
    /// What `.pattern` is.
    Pattern,
    /// A string, from UTF-8.
    Bytes,
    /// A number: whole when the decimal's exponent is not negative.
    Decimal,
    /// An object of the dataclass's fields.
    Dataclass,
    /// Whatever pydantic writes.
    Model,
    /// Nothing.
    Unknown,
}

/// By module and name. Those of the standard library are looked up once; a subclass has its base's kind.
const STANDARD: [(&str, &str, Kind); 26] = [
    ("builtins", "str", Kind::Text),
    ("builtins", "int", Kind::Int),
    ("builtins", "float", Kind::Float),
    ("builtins", "dict", Kind::Mapping),
    ("types", "MappingProxyType", Kind::Mapping),
    ("builtins", "list", Kind::Sequence),
    ("builtins", "tuple", Kind::Sequence),
    ("builtins", "set", Kind::Sequence),
    ("builtins", "frozenset", Kind::Sequence),
    ("types", "GeneratorType", Kind::Sequence),
    ("collections", "deque", Kind::Sequence),
    ("builtins", "bytes", Kind::Bytes),
    ("datetime", "date", Kind::IsoFormat),
    ("datetime", "time", Kind::IsoFormat),
    ("datetime", "timedelta", Kind::Seconds),
    ("decimal", "Decimal", Kind::Decimal),
    ("enum", "Enum", Kind::Value),
    ("ipaddress", "IPv4Address", Kind::Str),
    ("ipaddress", "IPv4Interface", Kind::Str),
    ("ipaddress", "IPv4Network", Kind::Str),
    ("ipaddress", "IPv6Address", Kind::Str),
    ("ipaddress", "IPv6Interface", Kind::Str),
    ("ipaddress", "IPv6Network", Kind::Str),
    ("pathlib", "PurePath", Kind::Str),
    ("re", "Pattern", Kind::Pattern),
    ("uuid", "UUID", Kind::Str),
];

/// Of packages that may not be installed: looked up only if the program has imported them already, because
/// otherwise no value can be one of theirs.
const OPTIONAL: [(&str, &str, Kind); 8] = [
    ("pydantic", "SecretStr", Kind::Str),
    ("pydantic", "SecretBytes", Kind::Str),
    ("pydantic", "AnyUrl", Kind::Str),
    ("pydantic", "NameEmail", Kind::Str),
    ("pydantic_core", "Url", Kind::Str),
    ("pydantic_core", "MultiHostUrl", Kind::Str),
    ("pydantic_core", "PydanticUndefinedType", Kind::Null),
    ("pydantic_extra_types.color", "Color", Kind::Str),
];

/// Finds how `value` is written. Its class decides, never an attribute of the value itself.
pub(super) fn kind_of(value: &Bound<'_, PyAny>) -> PyResult<Kind> {
    let class = value.get_type();
    let py = value.py();
    let standard = standard(py)?.bind(py);
    if let Some(kind) = lookup(standard, class.as_any())? {
        return Ok(kind);
    }
    // A dataclass first: pydantic's dataclasses are both, and FastAPI treats them as dataclasses.
    if class.hasattr(intern!(py, "__dataclass_fields__"))? {
        return Ok(Kind::Dataclass);
    }
    if class.hasattr(intern!(py, "__pydantic_serializer__"))? {
        return Ok(Kind::Model);
    }
    match by_bases(standard, &class)? {
        Some(kind) => Ok(kind),
        None => by_imported_packages(value),
    }
}

/// The number a Decimal is: whole when it has no fraction, so that `Decimal("5")` is `5`, else a float.
pub(super) fn decimal_number<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    let exponent = value.call_method0(intern!(py, "as_tuple"))?.getattr(intern!(py, "exponent"))?;
    // NaN and infinity have a letter there; as floats they are refused with the other floats.
    let whole = exponent.extract::<i64>().is_ok_and(|exponent| exponent >= 0);
    let number = if whole { intern!(py, "__int__") } else { intern!(py, "__float__") };
    value.call_method0(number)
}

/// `dataclasses.fields`.
pub(super) fn dataclass_fields(py: Python<'_>) -> PyResult<&'static Py<PyAny>> {
    static FIELDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FIELDS.get_or_try_init(py, || Ok(py.import("dataclasses")?.getattr("fields")?.unbind()))
}

/// The kinds as a dict by class: its values are indexes into `STANDARD`.
fn standard(py: Python<'_>) -> PyResult<&'static Py<PyDict>> {
    static BY_CLASS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    BY_CLASS.get_or_try_init(py, || {
        let by_class = PyDict::new(py);
        for (index, (module, name, _)) in STANDARD.iter().enumerate() {
            by_class.set_item(py.import(*module)?.getattr(*name)?, index)?;
        }
        Ok(by_class.unbind())
    })
}

fn lookup(standard: &Bound<'_, PyDict>, class: &Bound<'_, PyAny>) -> PyResult<Option<Kind>> {
    match standard.get_item(class)? {
        Some(index) => Ok(STANDARD.get(index.extract::<usize>()?).map(|(_, _, kind)| *kind)),
        None => Ok(None),
    }
}

/// The nearest base that is known; an enum that is also a str or an int is an enum.
fn by_bases(standard: &Bound<'_, PyDict>, class: &Bound<'_, PyType>) -> PyResult<Option<Kind>> {
    let mut found = None;
    for base in class.mro().iter() {
        match lookup(standard, &base)? {
            Some(Kind::Value) => return Ok(Some(Kind::Value)),
            kind => found = found.or(kind),
        }
    }
    Ok(found)
}

fn by_imported_packages(value: &Bound<'_, PyAny>) -> PyResult<Kind> {
    let py = value.py();
    let modules = py.import("sys")?.getattr("modules")?;
    for (module, name, kind) in OPTIONAL {
        if let Ok(module) = modules.get_item(module)
            && let Ok(class) = module.getattr(name)
            && value.is_instance(&class)?
        {
            return Ok(kind);
        }
    }
    let mapping = py.import("collections.abc")?.getattr("Mapping")?;
    Ok(if value.is_instance(&mapping)? { Kind::Mapping } else { Kind::Unknown })
}
