"""What stands in the way of the hand-off, and what does not; what stays with the server streams as ever."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from asgi_layers import Awaiting, Passing
from handoff_app import HANDED_OFF, PORTABLE, Observed, build
from handoff_serving import (
    EVENTS,
    HEAD,
    LAST,
    body_of,
    is_handed_off,
    serving,
    streams_portably,
)
from loops import LOOPS
from opentelemetry import trace
from servers import HOST, Client, Command, ThreadServer, run, self_signed
from sse_hub._handoff.attempt import Attempt, State
from sse_hub._servers.stay import Stay
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from waiting import PATIENCE, until


class Changing(Passing):
    """Pure ASGI, changes each part of the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped_send(message: Message) -> None:
            if message.get("body"):
                message = {**message, "body": b": changed\n\n" + message["body"]}
            await send(message)

        await self.app(scope, receive, wrapped_send)


class Encoding(Passing):
    """Says that the content is encoded, and leaves it as it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"Content-Encoding", b"identity")]
            await send(message)

        await self.app(scope, receive, wrapped_send)


async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def awaits(seconds: float) -> Callable[[Request, RequestResponseEndpoint], Awaitable[Response]]:
    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)

        async def slowly() -> Any:
            async for chunk in response.body_iterator:  # type: ignore[attr-defined]
                await asyncio.sleep(seconds)
                yield chunk
                await asyncio.sleep(seconds)

        return StreamingResponse(slowly(), response.status_code, dict(response.headers))

    return dispatch


PASSING = {
    "base-http": (BaseHTTPMiddleware, {"dispatch": passes}),
    "base-http-awaiting": (BaseHTTPMiddleware, {"dispatch": awaits(0.02)}),
    "cors": (CORSMiddleware, {"allow_origins": ["*"]}),
    "gzip-not-for-streams": (GZipMiddleware, {}),
    "asgi": (Passing, {}),
    "asgi-awaiting": (Awaiting, {}),
}


@pytest.mark.parametrize("name", PASSING)
def test_middleware_that_leaves_the_body_does_not_prevent_it(name: str) -> None:
    with serving(PASSING["base-http"], PASSING[name]) as (server, observed):
        for _ in range(2):
            with Client(server.port, "/events", headers="Accept-Encoding: gzip\r\nOrigin: x\r\n") as client:
                observed.release.set()
                assert body_of(client.read_to_end()).endswith(HANDED_OFF)
        until(lambda: not server.servers[0].server_state.tasks)


def test_what_the_framework_puts_around_all_middleware_does_not_prevent_it() -> None:
    class Provider(trace.TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            return trace.NoOpTracer()

    app = build(telemetry={"tracer_provider": Provider()}, max_body_size=1000)
    with serving(app=app, http="httptools") as (server, observed):
        is_handed_off(server, observed)


def test_a_compressing_middleware_prevents_it() -> None:
    compressing = (GZipMiddleware, {"exclude_content_types": (), "minimum_size": 1})
    with serving(compressing) as (server, observed):
        with Client(
            server.port, "/events", headers="Accept-Encoding: gzip\r\nConnection: close\r\n"
        ) as client:
            response = client.read_to_end()
        assert b"content-encoding: gzip" in response
        assert b"0\r\n\r\n" in response
        assert observed.opened == [True]
        assert observed.decisions == [None]


@pytest.mark.parametrize("middleware", [Changing, Encoding])
def test_a_changed_body_prevents_it(middleware: Any) -> None:
    with serving((middleware, {})) as (server, observed):
        streams_portably(server)
        assert observed.opened == [True]
        assert stays(observed) == Stay.MIDDLEWARE


def test_a_preamble_that_comes_too_late_prevents_it() -> None:
    with serving((BaseHTTPMiddleware, {"dispatch": awaits(0.15)})) as (server, observed):
        streams_portably(server, "/events?timeout=0.05")
        assert observed.opened == [True]
        assert stays(observed) == Stay.LATE


def stays(observed: Observed) -> Stay | None:
    """Why the last stream stayed."""
    attempt = observed.attempts[-1]
    if not isinstance(attempt, Attempt):
        return attempt
    assert (attempt.state is State.KEPT) is (attempt.stay is not None)
    return attempt.stay


def refused(server: ThreadServer, request: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection((HOST, server.port), timeout=PATIENCE) as sock:
        sock.sendall(request)
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


STAYING = {
    "http-1.0": (b"GET /events HTTP/1.0\r\nHost: x\r\n\r\n", Stay.HTTP_VERSION),
    "unread": (b"POST" + HEAD + b"Content-Length: 4\r\n\r\nbody", Stay.REQUEST_BODY),
    "incomplete": (b"POST" + HEAD + b"Content-Length: 40\r\n\r\nbody", Stay.REQUEST_BODY),
    "continue": (b"GET" + HEAD + b"Expect: 100-continue\r\n\r\n", Stay.EXPECT_CONTINUE),
    "pipelined": (EVENTS + LAST, Stay.PIPELINED),
}


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_such_requests_are_streamed_portably(http: str) -> None:
    with serving(http=http) as (server, observed):
        for name, (request, _) in STAYING.items():
            received = refused(server, request)
            assert received.count(PORTABLE) == 3, name
            assert HANDED_OFF not in received, name
            assert received.endswith(b"plain") is (name == "pipelined")
            assert stays(observed) == STAYING[name][1]
            assert observed.closed.wait(PATIENCE)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_the_beginning_of_a_next_request_keeps_it_too(http: str) -> None:
    with serving(http=http) as (server, observed):
        with socket.create_connection((HOST, server.port), timeout=PATIENCE) as sock:
            sock.sendall(EVENTS + LAST[:9])
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += sock.recv(65536)
            sock.sendall(LAST[9:])
            while more := sock.recv(65536):
                received += more
        assert received.count(PORTABLE) == 3
        assert received.endswith(b"plain")
        assert observed.opened == [False]


def test_head_is_answered_as_ever() -> None:
    with serving() as (server, observed):
        assert refused(server, b"HEAD" + HEAD + b"\r\n").endswith(b"\r\n\r\n")
        assert observed.opened == [False]


def test_tls_stays(tmp_path: Path) -> None:
    key, certificate, context = self_signed(tmp_path)
    for loop in LOOPS:
        with serving(loop=loop, ssl_keyfile=key, ssl_certfile=certificate) as (server, observed):
            plain = socket.create_connection((HOST, server.port), timeout=PATIENCE)
            with context.wrap_socket(plain, server_hostname="test") as sock:
                sock.sendall(b"GET" + HEAD + b"\r\n")
                received = b""
                while data := sock.recv(65536):
                    received += data
            assert body_of(received).endswith(PORTABLE * 3)
            assert observed.opened == [False]


def test_a_client_that_takes_nothing_stays_until_it_does() -> None:
    with serving() as (server, observed):
        with Client(
            server.port,
            "/events?padding=8000000&timeout=3",
            receive_buffer=4096,
            headers="Connection: close\r\n",
        ) as client:
            until(lambda: observed.decisions == [None])
            assert body_of(client.read_to_end()).endswith(PORTABLE * 3)
        assert stays(observed) == Stay.SLOW_CLIENT


def test_without_descriptors_it_stays() -> None:
    args = ["--factory", "handoff_app:factory", "--port", "0", "--loop", "asyncio"]
    command = Command([sys.executable, "-m", "uvicorn", *args])
    with run(command) as server, Client(server.port, "/exhausted", headers="Connection: close\r\n") as client:
        assert body_of(client.read_to_end()).endswith(PORTABLE * 3)
        assert not re.search("ERROR|Traceback", server.output)
