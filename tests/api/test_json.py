"""The hub's JSON: FastAPI's mapping, Python's number formats, and clear errors for the rest."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import re
import struct
import threading
import types
import uuid
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from typing import Any

import pydantic
import pytest
from fastapi.encoders import jsonable_encoder
from hypothesis import given
from hypothesis import strategies as st
from sse_hub._core import dumps, json_text


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    BOB = "bob"


class Text(str):
    def __str__(self) -> str:
        return "not this"


class Number(int):
    def __repr__(self) -> str:
        return "not this"


class Reading(float):
    def __repr__(self) -> str:
        return "not this"


class Model(pydantic.BaseModel):
    at: dt.datetime = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    price: decimal.Decimal = decimal.Decimal("1.50")
    long_name: str = pydantic.Field(default="x", serialization_alias="longName")


@dataclasses.dataclass
class Point:
    x: int
    label: str | None = None
    model: Model = dataclasses.field(default_factory=Model)


@pydantic.dataclasses.dataclass
class Checked:
    y: float


Pair = namedtuple("Pair", "a b")

VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, 10**40, 1.0, -0.0, 1e300, 5e-324, 0.1, 1e16, 1e-5,
    "", "é\u2028\x7f\U0001f600", '"\\/\b\f\n\r\t\x00\x1f',
    [], [1, [2, [3]]], (), (1, "a"), {}, {"a": {"b": None}}, {0: 2, 2.5: 3, True: 4, None: 5},
    Text("text"), Number(7), Reading(2.5), Colour.RED, Colour.PAIR, Level.HIGH, Name.BOB,
    dt.datetime(2030, 1, 2, 3, 4, 5, 6), dt.datetime(2030, 1, 2, tzinfo=dt.UTC), dt.date(2030, 1, 2),
    dt.time(3, 4), dt.timedelta(days=1, milliseconds=5),
    uuid.UUID(int=5), decimal.Decimal("5"), decimal.Decimal("5.0"), decimal.Decimal("1E+3"),
    decimal.Decimal("-0.25"), {1}, frozenset(["a"]), deque([1, 2]), pathlib.PurePosixPath("/a/b"),
    pathlib.Path("x"), b"bytes \xc3\xa9", Pair(1, "b"), OrderedDict(a=1), defaultdict(list, a=[1]),
    UserDict(a=1), types.MappingProxyType({"a": 1}), ipaddress.ip_address("127.0.0.1"),
    ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("::1/64"), re.compile("a+"),
    pydantic.SecretStr("hidden"), pydantic.AnyUrl("https://example.org/"), Point(1), Checked(1.5),
    [Model()], {"model": Model(), "points": [Point(2, "l")]}, {uuid.UUID(int=6): 1, dt.date(2030, 1, 2): 2},
    {Level.HIGH: 1, Name.BOB: 2, Colour.RED: 3}, Model(),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_mean_what_fastapi_makes_of_them(value: Any) -> None:
    text = json_text(value)
    assert json.loads(text) == json.loads(json.dumps(jsonable_encoder(value)))
    assert "\n" not in text
    assert "\r" not in text


def test_iterators_are_read_once() -> None:
    assert json_text(number for number in range(3)) == "[0,1,2]"


def test_differences_from_fastapi_on_purpose() -> None:
    # FastAPI's encoder drops such keys (SQLAlchemy's), and publishes the vars() of any object.
    assert json_text({"_sale": 1}) == '{"_sale":1}'
    with pytest.raises(TypeError, match=r"object of type .*\.Plain cannot be written as JSON"):
        json_text(Plain())
    with pytest.raises(ValueError, match="nan"):
        json_text(math.nan)


class Plain:
    pass


def test_a_model_is_pydantics_own_json_by_alias() -> None:
    assert json_text(Model()) == Model().model_dump_json(by_alias=True)
    assert '"longName":"x"' in json_text({"in": [Model()]})


def circular() -> list[Any]:
    inner: list[Any] = []
    outer = [{"a": (inner,)}]
    inner.append(outer)
    return outer


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@dataclasses.dataclass
class Holder:
    inner: Any = None


def test_a_dataclass_inside_itself() -> None:
    holder = Holder()
    holder.inner = [holder]
    with pytest.raises(ValueError, match="Circular reference"):
        json_text(holder)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (math.inf, ValueError, "inf"),
        ([-math.inf], ValueError, "-inf"),
        ({math.nan: 1}, ValueError, "nan"),
        (decimal.Decimal("NaN"), ValueError, "nan"),
        ("\ud800", UnicodeEncodeError, "surrogates not allowed"),
        ({"\udfff": 1}, UnicodeEncodeError, "surrogates not allowed"),
        (b"\xff", UnicodeDecodeError, "utf-8"),
        (circular(), ValueError, "Circular reference"),
        (nested(2000), RecursionError, "nested deeper than 1000 levels"),
        (object(), TypeError, "object of type object"),
        ([print], TypeError, "builtin_function_or_method"),
        (Model, TypeError, "object of type"),
        (1j, TypeError, "complex"),
        ({(1, 2): 3}, TypeError, "keys must be .* not tuple"),
    ],
)
def test_what_cannot_be_written(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        json_text(value)
    # And the next value is not spoilt by what was written before the error.
    assert json_text([1]) == "[1]"


def test_depth_has_no_more_than_the_interpreters_limit() -> None:
    assert json_text(nested(900)) == "[" * 901 + "]" * 901


def test_code_that_changes_a_dict_while_it_is_written() -> None:
    target: dict[str, Any] = {}

    class Meddling(dict[str, Any]):
        def items(self) -> Any:
            target["more"] = 1
            return super().items()

    target.update(first=Meddling(), second=2)
    # As json.dumps: the entries of one moment.
    assert json_text(target) == '{"first":{},"second":2}'
    assert target["more"] == 1


def test_a_dict_that_another_thread_changes_is_written_as_it_was_at_one_moment() -> None:
    target: dict[str, Any] = {"0": 0}
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            target[str(n)] = n
            if n % 10 == 0:
                target.clear()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            written = json.loads(json_text(target))
            assert all(key == str(value) for key, value in written.items())
            numbers = list(written.values())
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    finally:
        stop.set()
        thread.join()


def test_code_that_shortens_a_list_while_it_is_written() -> None:
    target: list[Any] = []

    class Meddling(dict[str, Any]):
        def items(self) -> Any:
            del target[1:]
            return super().items()

    target.extend([Meddling(), 2, 3])
    assert json_text(target) == "[{}]"


@given(st.integers(0, 2**64 - 1))
def test_floats_are_pythons_repr(bits: int) -> None:
    (number,) = struct.unpack("<d", struct.pack("<Q", bits))
    if math.isfinite(number):
        assert dumps(number) == repr(number)


@given(st.integers(-(10**17), 10**17), st.integers(0, 25))
def test_short_decimals_are_pythons_repr(digits: int, places: int) -> None:
    number = digits / 10**places
    for near in (number, math.nextafter(number, math.inf), math.nextafter(number, -math.inf)):
        assert dumps(near) == repr(near)


def test_floats_at_the_edges_are_pythons_repr() -> None:
    for exponent in range(-1074, 1024):
        for number in (2.0**exponent, -(2.0**exponent), math.nextafter(2.0**exponent, 0.0)):
            assert dumps(number) == repr(number)
    for exponent in range(-323, 309):
        for digits in ("1", "9", "1.5", "9.999999999999999", "1.0001", "123.4567"):
            number = float(f"{digits}e{exponent}")
            if math.isfinite(number):
                assert dumps(number) == repr(number)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(json_values)
def test_both_contracts_agree_with_json_dumps(value: Any) -> None:
    expected = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    assert dumps(value) == expected
    escaped = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
    assert json_text(value) == expected.translate(escaped)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_strict_contract_is_json_dumps(value: Any) -> None:
    try:
        expected: str | TypeError = json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except TypeError as error:
        expected = error
    if isinstance(expected, str):
        assert dumps(value) == expected
    else:
        with pytest.raises(TypeError, match=re.escape(str(expected))):
            dumps(value)
