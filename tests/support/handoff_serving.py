"""Helpers for tests of the hand-off: a server in a thread, and checks of its responses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from handoff_app import HANDED_OFF, PORTABLE, Observed, build
from servers import Client, ThreadServer

EVENTS = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEAD = b" /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


class Complaints(logging.Handler):
    """A log handler that collects messages."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def serving(
    *middleware: Any, http: str = "auto", app: FastAPI | None = None, **config: Any
) -> Iterator[tuple[ThreadServer, Observed]]:
    """Serve the app with this middleware; yields the server and the record of what happens in it.

    A warning or an error in the log, from uvicorn, asyncio or the library, fails the test.
    """
    app = app or build(*middleware)
    config = {"loop": "asyncio", "log_config": None, "log_level": "info", **config}
    complaints = Complaints(logging.WARNING)
    logging.getLogger().addHandler(complaints)
    try:
        with ThreadServer(app, http=http, **config) as server:
            yield server, app.state.observed
            server.stop()
            server.wait()
    finally:
        logging.getLogger().removeHandler(complaints)
    assert complaints.messages == []


def body_of(response: bytes) -> bytes:
    """The content of a chunked body, which has to be complete."""
    _, _, rest = response.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        body += rest[:length]
        if length == 0:
            assert rest == b"\r\n"
            return body
        rest = rest[length + 2 :]


def streams_portably(server: ThreadServer, path: str = "/events", **options: Any) -> None:
    options["headers"] = options.get("headers", "") + "Connection: close\r\n"
    with Client(server.port, path, **options) as client:
        body = body_of(client.read_to_end())
    assert body.count(PORTABLE) == 3
    assert HANDED_OFF not in body


def is_handed_off(server: ThreadServer, observed: Observed, path: str = "/events") -> None:
    with Client(server.port, path) as client:
        observed.release.set()
        assert body_of(client.read_to_end()).endswith(HANDED_OFF)
