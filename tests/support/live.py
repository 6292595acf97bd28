"""A real uvicorn in a thread, so that the test shares the app's hub, and a client for it.

::

    with serve(app) as server, server.stream("/events") as events:
        hub.publish("prices", 1)
        assert events.next().data == "1"
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from httpx_sse import EventSource, ServerSentEvent
from waiting import PATIENCE


class Events:
    """A stream's events, parsed by httpx-sse."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._events = EventSource(response).iter_sse()

    def next(self) -> ServerSentEvent:
        """The next event that is not the stream's opening; AssertionError when the stream ends."""
        for event in self._events:
            if event.event != "stream-open":
                return event
        raise AssertionError("the stream ended")

    def opened(self) -> ServerSentEvent:
        """The stream's opening event."""
        event = next(self._events)
        assert event.event == "stream-open"
        return event

    def rest(self) -> list[ServerSentEvent]:
        """All events up to the stream's end."""
        return list(self._events)


class Server:
    """The address of a running server, and an HTTP client for it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    @contextmanager
    def stream(self, path: str, **request: Any) -> Iterator[Events]:
        """Open a stream; leaving the block closes the connection."""
        with self.http.stream("GET", path, **request) as response:
            yield Events(response)


@contextmanager
def serve(app: Callable[..., Any], **options: Any) -> Iterator[Server]:
    """Run ``app`` under uvicorn on a free port, lifespan included, until the block ends.

    ``options`` are those of ``uvicorn.Config``; with ``uds`` the server listens only there. Every test with
    this server also shows that it stops while streams are open.
    """
    options.setdefault("timeout_keep_alive", int(PATIENCE))  # `http` finds no connection closed
    with socket.create_server(("127.0.0.1", 0)) as sock:
        uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_level="warning", **options))
        sockets = None if "uds" in options else [sock]
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": sockets}, daemon=True)
        thread.start()
        # The socket listens already: a request that comes during the start waits in its queue.
        deadline = time.monotonic() + PATIENCE
        while sockets is None and not uvicorn_server.started:
            assert time.monotonic() < deadline, "uvicorn does not start"
            time.sleep(0.01)
        server = Server(sock.getsockname()[1])
        try:
            yield server
        finally:
            server.http.close()
            uvicorn_server.should_exit = True
            thread.join(PATIENCE)
    assert not thread.is_alive(), "uvicorn does not stop"
