"""Streams as a client's socket receives them, from one server for many tests, on either delivery path.

::

    SITES = tuple(WAYS)  # each test that takes ``site`` runs once with each way to serve

    def test_it(site: Site) -> None:
        hub = site.hub()
        with site.stream(hub, "prices") as stream:
            hub.publish("prices", 1)
            assert stream.event().json() == 1
"""

from __future__ import annotations

import logging
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from handoff_serving import Complaints
from servers import Client, ThreadServer
from sse_hub import Hub, Subscription
from sse_hub._testing.event_parser import Event, EventParser
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

# Each way to serve: the delivery path of its streams, and uvicorn's options.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "portable": ("loop", {"http": "httptools", "loop": "asyncio"}),
    "httptools": ("reactor", {"http": "httptools", "loop": "uvloop"}),
    "h11": ("reactor", {"http": "h11", "loop": "asyncio"}),
}


class Stream(Client):
    """A client that reads one stream's chunked body, event by event."""

    def __init__(self, port: int, path: str = "/", *, last_event_id: str = "", **options: Any) -> None:
        if last_event_id:
            options["headers"] = options.get("headers", "") + f"Last-Event-ID: {last_event_id}\r\n"
        super().__init__(port, path, **options)
        self.parser = EventParser(last_event_id)
        self.last_event_id = last_event_id  # of the last event that was returned
        self.head = b""
        self.body = bytearray()  # what was received of it, without the chunked coding
        self.ended = False  # the body came to its end
        self.reset = False  # the connection closed without that

    def opened(self) -> Event:
        """Read up to the stream's opening."""
        while (event := self.next()).event != "stream-open":
            assert event.is_comment, event
        return event

    def next(self) -> Event:
        """The next event or comment."""
        while not self.parser.events:
            assert self._read(), "the stream ended"
        event = self.parser.events.popleft()
        self.last_event_id = event.id
        return event

    def event(self) -> Event:
        """The next event that the application published."""
        while (event := self.next()).is_comment or event.event.startswith("stream-"):
            pass
        return event

    def take(self, count: int) -> list[Any]:
        """The data of the next ``count`` events that the application published."""
        return [self.event().json() for _ in range(count)]

    def rest(self) -> list[Event]:
        """All events up to the stream's end, without comments and openings."""
        while self._read():
            pass
        events = [event for event in self.parser.events if event.event not in (":", "stream-open")]
        self.parser.events.clear()
        self.last_event_id = self.parser.last_event_id
        return events

    def silent(self, seconds: float = 0.1) -> None:
        """Check that nothing arrives for this long."""
        self.sock.settimeout(seconds)
        try:
            while not self.parser.events and self._read():
                pass
        except TimeoutError:
            pass
        self.sock.settimeout(self.timeout)
        assert not self.parser.events
        assert not self.ended
        assert not self.reset

    def _read(self) -> bool:
        if self.ended or self.reset:
            return False
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.reset = not data
        self.received += data
        if not self.head and b"\r\n\r\n" in self.received:
            self.head, _, self.received = self.received.partition(b"\r\n\r\n")
            assert self.head.startswith(b"HTTP/1.1 200 OK\r\n"), self.head
        while self.head and self._chunk():
            pass
        return bool(data)

    def _chunk(self) -> bool:
        size, line, rest = self.received.partition(b"\r\n")
        length = int(size, 16) if line else 0
        if not line or len(rest) < length + 2:
            return False
        assert rest[length : length + 2] == b"\r\n", "the chunked coding is broken"
        self.received = rest[length + 2 :]
        self.body += rest[:length]
        self.parser.feed(rest[:length])
        self.ended = length == 0
        return not self.ended


def of_the_run(body: bytes | bytearray) -> bytes:
    """A stream's bytes but for what is the client's own: its opening, its time to reconnect, comments."""
    lines = [line for line in body.split(b"\n") if not line.startswith((b":", b"retry:"))]
    return re.sub(rb"\A\n*(?:id: .*\n)?event: stream-open\ndata: \n", b"", b"\n".join(lines)).lstrip(b"\n")


class Site:
    """One server in a thread, whose app each test sets. ``other`` options of uvicorn take precedence."""

    def __init__(self, way: str, **other: Any) -> None:
        self.path, options = WAYS[way]
        options = {**options, **other}
        self.app: Any = None
        self._hubs: list[Hub] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

        self.server = ThreadServer(app, lifespan="off", log_config=None, **options)
        self.port = self.server.port

    def hub(self, **options: Any) -> Hub:
        """A hub that closes with the test."""
        if self.path == "loop":
            options.setdefault("handoff", False)
        self._hubs.append(Hub(**options))
        return self._hubs[-1]

    def raw(self, path: str = "/", **options: Any) -> Stream:
        """A stream of ``app``."""
        return Stream(self.port, path, **options)

    def stream(self, hub: Hub, topics: Any = "t", *, client: Any = None, **options: Any) -> Stream:
        """An opened stream of these topics. ``client`` are the options of the connection."""
        self.app = hub.endpoint(topics, **options)
        stream = self.raw(**(client or {}))
        stream.opened()
        assert {one.path for one in hub.subscribers()} <= {self.path}
        return stream

    def serve(self, make: Callable[[Request], Response], *middleware: Middleware) -> None:
        """Answer every request with what ``make`` returns, behind this middleware."""

        async def endpoint(request: Request) -> Response:
            return make(request)

        self.app = Starlette(routes=[Route("/", endpoint)], middleware=middleware)

    def close_hubs(self) -> None:
        for hub in self._hubs:
            hub.close(0.5)
        self._hubs.clear()

    def close(self) -> None:
        with self.server as server:
            server.stop()
            server.wait()


@contextmanager
def narrow_site(way: str) -> Iterator[Site]:
    """A server whose kernel takes a few KB for a client, not megabytes: a write waits for the client."""
    site = Site(way)
    for sock in site.server._sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with quiet():
        yield site
        site.close_hubs()
    site.close()


@contextmanager
def quiet(*allowed: str) -> Iterator[None]:
    """Check that uvicorn, asyncio and the library log no warning or error but those ``allowed``."""
    complaints = Complaints(logging.WARNING)
    logging.getLogger().addHandler(complaints)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(complaints)
    assert [message for message in complaints.messages if message not in allowed] == []


def only(hub: Hub) -> Subscription:
    """The hub's only subscriber."""
    (subscriber,) = hub.subscribers()
    return subscriber


def names(events: list[Event]) -> list[str]:
    """Each event's data; for the hub's own events, their names."""
    return [event.event if event.event.startswith("stream-") else event.data for event in events]


def half_close(sock: socket.socket) -> None:
    """Send FIN and keep the connection open for reading."""
    sock.shutdown(socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def segments(client: socket.socket) -> int:
    """How many pieces a client has received: one for each write of a few bytes."""
    (number,) = struct.unpack_from("I", client.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 256), 152)
    return int(number)
