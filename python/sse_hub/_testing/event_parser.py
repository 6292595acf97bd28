"""The event-stream grammar of WHATWG HTML, 9.2.6, for tests: bytes in, events out."""

from __future__ import annotations

import codecs
import json
from collections import deque
from dataclasses import dataclass
from typing import Any

__all__ = ["Event", "EventParser"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a browser sees it."""

    event: str = "message"
    """Its name; ``"message"`` when the server sent none."""
    data: str = ""
    """Its data; lines are joined by a line feed."""
    id: str = ""
    """The stream's last event id when it was dispatched (a browser's ``lastEventId``); empty without one."""
    retry: int | None = None
    """The reconnection time in milliseconds that came with it, or None."""
    is_comment: bool = False
    """Whether it is not an event but a comment line, whose text is in ``data``."""
    traceparent: str | None = None
    """The trace context that came with it (``Hub(trace=True)``), which browsers ignore; None without."""

    def json(self) -> Any:
        """The data, parsed as JSON. Raises ValueError if it is not JSON."""
        return json.loads(self.data)


class EventParser:
    """Reads an event stream piece by piece; what it has read is in ``events``.

    By the standard, a block without data dispatches nothing, though its id and reconnection time count.
    Comment lines are included, in their place, as events with the name ``":"`` and ``is_comment``.

    Args:
        last_event_id: the last id that the client has already.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.events: deque[Event] = deque()
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._id = last_event_id
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._first = True
        self._after_cr = False
        self._clear()

    def _clear(self) -> None:
        self._event = ""
        self._data: list[str] = []
        self._block_retry: int | None = None
        self._traceparent: str | None = None

    def feed(self, chunk: bytes) -> None:
        """Read ``chunk``, which may end anywhere, even inside a character."""
        text = self._decoder.decode(chunk)
        if not text:
            return
        if self._first:
            self._first = False
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            # The CR ended its line already; an LF right behind it belongs to it.
            text = text.removeprefix("\n")
            self._after_cr = False
        self._after_cr = text.endswith("\r")
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            self._line.append(line)
            self._end_line("".join(self._line))
            self._line.clear()
        self._line.append(rest)

    def _end_line(self, line: str) -> None:
        if not line:
            self._dispatch()
            return
        field, colon, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if colon:
                self.events.append(Event(":", value, self.last_event_id, is_comment=True))
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "traceparent":
                self._traceparent = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = self._block_retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id  # Here, not at the id's line: a block that was cut off does not count.
        # A data buffer of nothing but one empty line is "\n" in the standard, so not empty: it dispatches.
        if self._data:
            data = "\n".join(self._data)
            name = self._event or "message"
            event = Event(name, data, self.last_event_id, self._block_retry, traceparent=self._traceparent)
            self.events.append(event)
        self._clear()
