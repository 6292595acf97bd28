"""An app whose stream takes over its connection itself, to test that without the reactor.

A thread writes a handed-off stream to the plain socket, with the event ``HANDED_OFF``; a stream that stays
continues through ASGI with ``PORTABLE``. Both end with the end of the body.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from sse_hub import _core
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.taking import make_attempt
from sse_hub._servers.stay import Stay
from sse_hub._stopping.handed import handed_off
from starlette.types import Receive, Scope, Send
from waiting import PATIENCE

HANDED_OFF = b"data: handed off\n\n"
PORTABLE = b"data: portable\n\n"
GOODBYE = b"data: goodbye\n\n"


class Streams:
    """The streams that one app took over, each with its group; the methods are those of a hub."""

    def __init__(self, grace: float = 1.0) -> None:
        self.grace = grace
        self.deaf = False  # whether it ignores the request to stop
        self.stopped: list[int] = []
        self.aborted: list[int] = []
        self.open: dict[socket.socket, int] = {}

    def _before_stop(self, then: Callable[[], None]) -> None:
        then()

    def _stop_group(self, group: int) -> None:
        self.stopped.append(group)
        if not self.deaf:
            for sock in self._of(group):
                finish(sock, GOODBYE)
                del self.open[sock]

    def _open_in_group(self, group: int) -> int:
        return len(self._of(group))

    def _abort_group(self, group: int) -> None:
        self.aborted.append(group)
        for sock in self._of(group):
            sock.close()
            del self.open[sock]

    def _of(self, group: int) -> list[socket.socket]:
        return [sock for sock, number in self.open.items() if number == group]


def finish(sock: socket.socket, event: bytes) -> None:
    """Write one event and the end of the body to the socket, and close it."""
    with sock:
        sock.setblocking(True)
        sock.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(event), event))


class Observed:
    """What happens inside the server: events and records for the test."""

    def __init__(self) -> None:
        self.release = threading.Event()  # once the test sets it, handed-off streams send their event and end
        self.closed = threading.Event()  # the dependency with `yield` is closed
        self.began = threading.Event()
        self.attempts: list[Attempt | Stay] = []
        self.opened: list[bool] = []
        self.decisions: list[int | None] = []
        self.streams = Streams()


class Taking(Response):
    """A response that takes over its connection if it can."""

    media_type = "text/event-stream"

    def __init__(self, observed: Observed, *, timeout: float, padding: int, keep: bool) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.observed = observed
        self.timeout = timeout
        self.keep = keep
        self.preamble = b": " + secrets.token_hex(8).encode() + b"x" * padding + b"\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        attempt = make_attempt(scope, receive)
        self.observed.attempts.append(attempt)
        self.observed.opened.append(isinstance(attempt, Attempt))
        if isinstance(attempt, Attempt):
            attempt.begin(self.preamble, self.timeout)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.preamble, "more_body": True})
        descriptor = await attempt.decision() if isinstance(attempt, Attempt) else None
        self.observed.decisions.append(descriptor)
        if descriptor is None:
            for _ in range(3):
                await send({"type": "http.response.body", "body": PORTABLE, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        assert isinstance(attempt, Attempt)
        assert not os.get_blocking(descriptor)
        assert not os.get_inheritable(descriptor)
        assert _core._release(descriptor)
        sock = socket.socket(fileno=descriptor)
        if self.keep:
            self.observed.streams.open[sock] = attempt.server.group
            handed_off(attempt.server, self.observed.streams, attempt.server.group)
        else:
            threading.Thread(target=self._write, args=(sock,)).start()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _write(self, sock: socket.socket) -> None:
        assert self.observed.release.wait(60)
        finish(sock, HANDED_OFF)


def build(
    *middleware: tuple[Any, dict[str, Any]], observed: Observed | None = None, **options: Any
) -> FastAPI:
    """The app; ``middleware`` goes from the innermost to the outermost."""
    observed = Observed() if observed is None else observed

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        print("lifespan started", flush=True)
        yield
        print(f"lifespan ended with {len(observed.streams.open)} streams", flush=True)

    app = FastAPI(lifespan=lifespan, **options)
    app.state.observed = observed

    async def session() -> AsyncIterator[str]:
        yield "a database session"
        observed.closed.set()

    @app.api_route("/events", methods=["GET", "HEAD", "POST"], dependencies=[Depends(session)])
    async def events(timeout: float = PATIENCE, padding: int = 0, keep: bool = False) -> Response:
        observed.began.set()
        return Taking(observed, timeout=timeout, padding=padding, keep=keep)

    async def read(request: Request) -> Response:
        assert await request.body()
        return Taking(observed, timeout=PATIENCE, padding=0, keep=False)

    app.add_route("/read", read, methods=["POST"])

    @app.get("/late")
    async def late() -> Response:
        observed.began.set()
        await asyncio.to_thread(observed.release.wait, 10)
        return Taking(observed, timeout=PATIENCE, padding=0, keep=True)

    @app.get("/plain")
    async def plain() -> Response:
        return PlainTextResponse("plain")

    @app.get("/exhausted")
    async def exhausted() -> Response:
        use_up_descriptors()
        return Taking(observed, timeout=PATIENCE, padding=0, keep=False)

    for cls, options in middleware:
        app.add_middleware(cls, **options)
    return app


def use_up_descriptors(left: int = 0) -> None:
    """Leave this process no free descriptor, or ``left`` of them."""
    import resource

    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(left + 1)]
    for number in free:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def factory(*middleware: tuple[Any, dict[str, Any]]) -> FastAPI:
    """The app for ``uvicorn --factory``; handed-off streams end at once."""
    observed = Observed()
    observed.release.set()
    return build(*middleware, observed=observed)
