"""The sse-starlette classes' bytes: as documented, as the peer writes them, as other parsers read them."""

from __future__ import annotations

import io
import itertools
from typing import Any

import httpx
import pytest
import sse_hub.event as ours
import sse_starlette.event as peer
import sseclient
from httpx_sse import EventSource
from hypothesis import given
from hypothesis import strategies as st
from sse_hub.event import JSONServerSentEvent, ServerSentEvent, ensure_bytes

SEPARATORS = ["\r\n", "\r", "\n"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ServerSentEvent(), b"\r\n"),
        (ServerSentEvent(""), b"data: \r\n\r\n"),
        (ServerSentEvent("a\n"), b"data: a\r\ndata: \r\n\r\n"),
        (ServerSentEvent("a\r\nb\rc\nd"), b"data: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n"),
        (ServerSentEvent("a\u2028b\x0bc\x0cd\x85e"), "data: a\u2028b\x0bc\x0cd\x85e\r\n\r\n".encode()),
        (ServerSentEvent(comment="a\nb\r"), b": a\r\n: b\r\n: \r\n\r\n"),
        (ServerSentEvent(id="a\r\nb", event="c\nd\r"), b"id: ab\r\nevent: cd\r\n\r\n"),
        (ServerSentEvent(id=""), b"id: \r\n\r\n"),
        (ServerSentEvent(7), b"data: 7\r\n\r\n"),
        (ServerSentEvent(0, retry=0), b"data: 0\r\nretry: 0\r\n\r\n"),
        (ServerSentEvent(retry=True), b"retry: True\r\n\r\n"),
        (ServerSentEvent(retry=10**30), b"retry: 1" + b"0" * 30 + b"\r\n\r\n"),
        (
            ServerSentEvent("d", event="e", id="i", retry=5, comment="c", sep="\n"),
            b": c\nid: i\nevent: e\ndata: d\nretry: 5\n\n",
        ),
        (JSONServerSentEvent(None), b"\r\n"),
        (JSONServerSentEvent({"a": [1, "é\u2028"]}), 'data: {"a":[1,"é\u2028"]}\r\n\r\n'.encode()),
        (JSONServerSentEvent("a\nb", event="e", id="1"), b'id: 1\r\nevent: e\r\ndata: "a\\nb"\r\n\r\n'),
    ],
)
def test_encoding_table(event: ServerSentEvent, expected: bytes) -> None:
    assert event.encode() == expected


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (b"raw\r\n", b"raw\r\n"),
        (memoryview(b"raw"), b"raw"),
        (bytearray(b"raw"), b"data: bytearray(b'raw')\n\n"),
        (ServerSentEvent("own line ends"), b"data: own line ends\r\n\r\n"),
        ({}, b"\n"),
        ({"data": "d", "sep": "\r\n"}, b"data: d\n\n"),
        ({"data": None, "event": "e"}, b"event: e\n\n"),
        ("text", b"data: text\n\n"),
        (None, b"data: None\n\n"),
        (["a"], b"data: ['a']\n\n"),
        (3.5, b"data: 3.5\n\n"),
    ],
)
def test_ensure_bytes(item: Any, expected: bytes) -> None:
    given = dict(item) if isinstance(item, dict) else None
    result = ensure_bytes(item, "\n")
    assert result == expected
    assert type(result) is bytes
    assert given is None or item == given


@pytest.mark.parametrize(
    ("item", "error", "text"),
    [
        ({"data": "x", "name": "y"}, TypeError, "unexpected keyword argument 'name'"),
        ({"data": "x", 1: "y"}, TypeError, "keywords must be strings"),
        (ServerSentEvent(id=1), TypeError, "id must be str or None, not int"),  # type: ignore[arg-type]
        ({"event": 1}, TypeError, "event must be str or None, not int"),
        ({"id": b"1"}, TypeError, "id must be str or None, not bytes"),
        (ServerSentEvent(retry="1"), TypeError, "retry argument must be int"),  # type: ignore[arg-type]
        ({"retry": 1.0}, TypeError, "retry argument must be int"),
        ("\ud800", UnicodeEncodeError, "surrogates not allowed"),
        (ServerSentEvent(comment="\udfff"), UnicodeEncodeError, "surrogates not allowed"),
    ],
)
def test_what_cannot_be_encoded(item: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ensure_bytes(item, "\n")


class Shouting(str):
    def __str__(self) -> str:
        return self.upper()


class Lazy:
    def __str__(self) -> str:
        return "lazy\nvalue"


class Broken:
    def __str__(self) -> str:
        raise LookupError("no text")


def test_what_str_raises_comes_through() -> None:
    with pytest.raises(LookupError, match="no text"):
        ensure_bytes({"data": Broken()}, "\n")
    with pytest.raises(LookupError, match="no text"):
        ensure_bytes(Broken(), "\n")


class Reentrant:
    def __str__(self) -> str:
        return ensure_bytes("inner", "\n").decode()


def test_str_may_encode_events_itself() -> None:
    assert ensure_bytes({"event": "e", "data": Reentrant()}, "\n") == (
        b"event: e\ndata: data: inner\ndata: \ndata: \n\n"
    )


# Fields of every kind: valid, wrong in type, with line ends, subclasses, surrogates.
any_text = st.text(st.characters(), max_size=30) | st.text("ab\r\n\0: \u2028\x85é\ud800", max_size=12)
odd = st.sampled_from([0, 1.5, True, b"x", b"\n", Shouting("a\nb"), Lazy(), ["l"], "", None])
text_field = st.none() | any_text | odd
retry_field = st.none() | st.integers() | st.booleans() | odd
fields = st.fixed_dictionaries(
    {},
    optional={
        "data": text_field,
        "event": text_field,
        "id": text_field,
        "retry": retry_field,
        "comment": text_field,
        "sep": st.sampled_from([*SEPARATORS, None]),
    },
)


def outcome(lib: Any, make: Any) -> bytes | type[BaseException]:
    """The bytes, or the class of the error."""
    try:
        result: bytes = make(lib)
    except Exception as error:
        return type(error)
    return result


@given(fields)
def test_objects_as_the_peer_encodes_them(given: dict[str, Any]) -> None:
    def make(lib: Any) -> bytes:
        event = lib.ServerSentEvent(given.get("data"), **{k: v for k, v in given.items() if k != "data"})
        result: bytes = event.encode()
        return result

    assert outcome(ours, make) == outcome(peer, make)


@given(fields | any_text | odd | st.binary(max_size=10), st.sampled_from(SEPARATORS))
def test_items_as_the_peer_encodes_them(item: Any, sep: str) -> None:
    def make(lib: Any) -> bytes:
        result: bytes = lib.ensure_bytes(item, sep)
        return result

    assert outcome(ours, make) == outcome(peer, make)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            any_text | st.integers() | st.floats() | st.booleans() | st.none(), inner, max_size=4
        )
        | st.tuples(inner, inner)
        | st.sampled_from([{1, 2}, b"x", object(), {(1,): 2}, {b"k": 1}])
    ),
    max_leaves=10,
)


@given(json_like, st.none() | st.text("ab\n", max_size=5))
def test_json_as_the_peer_encodes_it(value: Any, event: str | None) -> None:
    def make(lib: Any) -> bytes:
        result: bytes = lib.JSONServerSentEvent(value, event=event).encode()
        return result

    mine, theirs = outcome(ours, make), outcome(peer, make)
    if mine is UnicodeEncodeError:
        # Refused in the constructor already, so before a second mistake further on in the value.
        assert isinstance(theirs, type)
    else:
        assert mine == theirs


def test_subclasses_and_patches_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ServerSentEvent):
        DEFAULT_SEPARATOR = "\n"

        def __init__(self, text: str) -> None:
            super().__init__(text, event="mine")
            self.extra = 1

    assert ensure_bytes(Mine("x"), "\r") == b"event: mine\ndata: x\n\n"

    class MyJSON(JSONServerSentEvent):
        def encode(self) -> bytes:
            return b": before\n" + super().encode()

    assert ensure_bytes(MyJSON([1], sep="\n"), "\r") == b": before\ndata: [1]\n\n"

    plain = ServerSentEvent.__init__

    def patched(self: ServerSentEvent, data: Any = None, **options: Any) -> None:
        plain(self, data, **{**options, "event": "patched"})

    monkeypatch.setattr(ServerSentEvent, "__init__", patched)
    assert ensure_bytes("x", "\n") == b"event: patched\ndata: x\n\n"
    assert ensure_bytes({"data": "x"}, "\n") == b"event: patched\ndata: x\n\n"
    assert JSONServerSentEvent([1], sep="\n").encode() == b"event: patched\ndata: [1]\n\n"
    monkeypatch.undo()
    monkeypatch.setattr(ServerSentEvent, "encode", lambda self: b"patched")
    assert ensure_bytes("x", "\n") == ensure_bytes({"data": "x"}, "\n") == b"patched"


def test_attributes_may_be_assigned_until_encode() -> None:
    event = JSONServerSentEvent({"a": 1}, sep="\n")
    assert event.data == '{"a":1}'
    event.id = "9"
    assert event.encode() == b'id: 9\ndata: {"a":1}\n\n'


# What a parser gives back: a line end in data is always \n; NUL in an id makes a parser ignore the id.
line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=20)
data_text = st.text("ab\r\n: ", max_size=12) | line.map(lambda text: text + "\n\r")


def normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cut(raw: bytes, at: list[int]) -> list[bytes]:
    """``raw`` in pieces."""
    edges = sorted({0, len(raw), *(position % (len(raw) + 1) for position in at)})
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


events = st.fixed_dictionaries(
    {"data": data_text},
    optional={
        "event": line.filter(bool),
        "id": line,
        "retry": st.integers(0, 10**6),
        "comment": data_text,
    },
)


@given(st.lists(events, min_size=1, max_size=4), st.sampled_from(["\r\n", "\n"]), st.lists(st.integers(0)))
def test_httpx_sse_reads_back_what_was_given(given: list[dict[str, Any]], sep: str, at: list[int]) -> None:
    raw = b"".join(ensure_bytes(item, sep) for item in given)
    response = httpx.Response(
        200, headers={"Content-Type": "text/event-stream"}, content=iter(cut(raw, at)), request=None
    )
    found = list(EventSource(response).iter_sse())
    last_id, expected = "", []
    for item in given:
        last_id = item.get("id", last_id)
        expected.append((item.get("event", "message"), normal(item["data"]), last_id, item.get("retry")))
    # The library leaves out an event without data and name, as a browser leaves out one without data.
    found_fields = [(event.event, event.data, event.id, event.retry) for event in found]
    assert [one for one in found_fields if one[1]] == [one for one in expected if one[1]]


class Chunks(io.BytesIO):
    """An iterable of pieces with a close method, which is what sseclient wants."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.pieces = pieces

    def __iter__(self) -> Any:
        return iter(self.pieces)


ascii_line = st.text("abc :\t{}\"'", max_size=20)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"data": ascii_line.filter(bool)},
            optional={"event": ascii_line.filter(str.strip), "id": ascii_line},
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0)),
)
def test_sseclient_reads_back_what_was_given(given: list[dict[str, Any]], at: list[int]) -> None:
    raw = b"".join(ensure_bytes(item, "\n") for item in given)
    found = [
        (event.event, event.data, event.id) for event in sseclient.SSEClient(Chunks(cut(raw, at))).events()
    ]
    assert found == [(item.get("event", "message"), item["data"], item.get("id")) for item in given]
