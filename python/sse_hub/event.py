"""The events of sse-starlette's API, and their encoding: ``from sse_hub.event import ServerSentEvent``.

Plain Python classes, made to be subclassed; the bytes are made in Rust. Line ends are CRLF by default here,
as they always were in this API (a hub's own streams use LF). Both are the same to a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sse_hub._core import EventEncoder as _EventEncoder
from sse_hub._core import dumps as _dumps
from sse_hub._core import encode_fields as _encode_fields

__all__ = ["JSONServerSentEvent", "ServerSentEvent", "ensure_bytes"]


class ServerSentEvent:
    """One event, given by its fields. Fields that are None are not sent.

    Args:
        data: the message: ``str(data)``, one ``data:`` line for each of its lines. Lines end at CRLF, CR or
            LF and at nothing else.
        event: the event's name, a str. Line ends in it are removed.
        id: the event's id, a str, which a browser sends back as Last-Event-ID. Line ends in it are removed.
        retry: milliseconds a browser waits before it reconnects, an int.
        comment: text a client ignores, one comment line for each of its lines.
        sep: what ends the lines, ``"\\r\\n"``, ``"\\r"`` or ``"\\n"``; default ``DEFAULT_SEPARATOR``, CRLF.

    Nothing is checked before :meth:`encode`, and every field can be assigned until then. Not synchronised:
    one thread at a time.
    """

    DEFAULT_SEPARATOR = "\r\n"

    def __init__(
        self,
        data: Any | None = None,
        *,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        sep: str | None = None,
    ) -> None:
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment
        self._sep = sep if sep is not None else self.DEFAULT_SEPARATOR

    def encode(self) -> bytes:
        """The event as it goes over the wire: comment, id, event, data, retry, and a blank line.

        Raises:
            TypeError: the id or event is not a str, or retry is not an int.
            UnicodeEncodeError: a field has a lone surrogate in it, which UTF-8 cannot express.
        """
        return _encode_fields(self.comment, self.id, self.event, self.data, self.retry, self._sep)


class JSONServerSentEvent(ServerSentEvent):
    """An event whose data is JSON: compact, on one line, non-ASCII characters as they are.

    Args:
        data: a value that ``json.dumps`` accepts; None sends no data at all. Afterwards the attribute
            ``data`` is the JSON text.

    The other arguments are :class:`ServerSentEvent`'s; give them by name.

    Raises:
        TypeError: something in the value has no JSON form.
        ValueError: NaN, infinity, a value that contains itself, or (UnicodeEncodeError) a lone surrogate.
        RecursionError: nested deeper than 1,000 levels.
    """

    def __init__(
        self,
        data: Any | None = None,
        # Not keyword-only like the parent's: each default of those is a dict look-up, 5% of the event's cost.
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        sep: str | None = None,
    ) -> None:
        text = _plain_json(self, data)
        if text is None:
            text = None if data is None else _dumps(data)
            super().__init__(text, event=event, id=id, retry=retry, comment=comment, sep=sep)
            return
        # What the parent's constructor does, without calling it: the call is a third of such an event's cost.
        self.data = text
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment
        self._sep = sep if sep is not None else self.DEFAULT_SEPARATOR


_encoder = _EventEncoder(ServerSentEvent, JSONServerSentEvent)
_plain_json = _encoder.plain_json
_ensure_bytes = _encoder.ensure_bytes


def ensure_bytes(data: bytes | memoryview | ServerSentEvent | Mapping[str, Any] | Any, sep: str) -> bytes:
    """Encodes whatever a stream may yield.

    Bytes and memoryviews pass through as they are, unframed. A :class:`ServerSentEvent` encodes itself, with
    its own line ends. A dict holds the fields of an event, except ``sep``, which is the stream's. Anything
    else becomes the data of an event, through ``str()``.

    Raises:
        TypeError: a dict has a key that is not a field's name; also as :meth:`ServerSentEvent.encode`.
        UnicodeEncodeError: lone surrogates.
    """
    return _ensure_bytes(data, sep)
