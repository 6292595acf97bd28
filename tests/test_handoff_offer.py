"""uvicorn lets go of a connection when it is offered and nothing speaks against it, and only then.

The streams here take their connection over themselves and are written by a thread, see ``handoff_app``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sse_hub.uvicorn
import uvicorn
from fastapi import FastAPI
from handoff_app import GOODBYE, HANDED_OFF, PORTABLE, Observed, build
from opentelemetry import trace
from servers import HOST, Client, Command, ThreadServer, gunicorn, run
from sse_hub import _handed
from sse_hub._handed import handed_off
from sse_hub._handoff import Offer, State
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROTOCOL = "sse_hub.uvicorn:Protocol"
EVENTS = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEAD = b" /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
HANDOFF: tuple[Any, dict[str, Any]] = (sse_hub.uvicorn.HandOff, {})
DOORS = {
    "protocol": (PROTOCOL, False),
    "middleware": ("httptools", True),
    "middleware-h11": ("h11", True),
    "both": (PROTOCOL, True),
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as a warning or worse, by uvicorn, asyncio or the library."""
    caplog.set_level(logging.INFO)
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@contextmanager
def serving(
    *middleware: Any, http: str = PROTOCOL, app: FastAPI | None = None, **config: Any
) -> Iterator[tuple[ThreadServer, Observed]]:
    """A server for the app with this middleware, and what happens in it."""
    app = app or build(*middleware)
    config = {"loop": "asyncio", "log_config": None, "log_level": "info", **config}
    with ThreadServer(app, http=http, **config) as server:
        yield server, app.state.observed
        server.stop()
        server.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.005)


def body_of(response: bytes) -> bytes:
    """The content of a chunked body that has to be whole."""
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


# The hand-off itself.


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_connection_leaves_the_server_and_goes_on(loop: str, door: str) -> None:
    http, middleware = DOORS[door]
    with serving(*[HANDOFF] * middleware, http=http, loop=loop) as (server, observed):
        state = server.servers[0].server_state
        with Client(server.port, "/events") as client:
            head = client.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"transfer-encoding: chunked" in head.lower()
            preamble = client.read_until(b"\n\n\r\n")
            # The request is over for the server and for the app, while the client's stream goes on.
            assert observed.closed.wait(5)
            wait_until(lambda: not state.tasks and not state.connections)
            observed.release.set()
            assert body_of(head + preamble + client.read_to_end()).endswith(b"\n\n" + HANDED_OFF)
        assert len(observed.offers) == 1


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_nothing_of_an_earlier_request_on_the_connection_ends_it(http: str) -> None:
    with ExitStack() as stack:
        server, observed = stack.enter_context(serving(HANDOFF, http=http, timeout_keep_alive=0.2))
        client = stack.enter_context(Client(server.port, "/plain"))
        client.read_until(b"\r\n\r\nplain")
        client.sock.sendall(EVENTS)
        client.read_until(b"\n\n\r\n")
        client.sock.settimeout(0.4)  # twice as long as uvicorn keeps an idle connection
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(5)
        observed.release.set()
        assert HANDED_OFF in client.read_to_end()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at epoll through /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_servers_loop_does_not_watch_it_any_more(loop: str) -> None:
    with serving(loop=loop) as (server, observed), Client(server.port, "/events?keep=1") as client:
        client.read_until(b"\n\n\r\n")
        wait_until(lambda: len(observed.streams.open) == 1)
        wait_until(lambda: not server.servers[0].server_state.connections)
        (sock,) = observed.streams.open
        inode = f"ino:{os.fstat(sock.fileno()).st_ino:x} "
        watched = [path.read_text() for path in Path("/proc/self/fdinfo").iterdir() if path.exists()]
        assert "tfd:" in "".join(watched)
        assert inode not in "".join(watched)


def test_nothing_is_left_in_python() -> None:
    with serving() as (server, observed), Client(server.port, "/late"):
        assert observed.began.wait(5)
        (protocol,) = server.servers[0].server_state.connections
        left = weakref.ref(protocol)
        del protocol
        observed.release.set()
        wait_until(lambda: len(observed.streams.open) == 1)
        wait_until(lambda: not server.servers[0].server_state.tasks)
        # What the response still has of the server refers to nothing.
        offer = observed.offers[0]
        assert offer is not None
        with pytest.raises(RuntimeError):
            _ = offer.server
        gc.collect()
        assert left() is None


def test_a_posted_body_that_was_read_does_not_prevent_it() -> None:
    with serving() as (server, observed), Client(server.port, "/plain") as client:
        client.read_until(b"\r\n\r\nplain")
        client.sock.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        observed.release.set()
        assert body_of(client.read_to_end()).endswith(HANDED_OFF)


def test_the_access_log_has_the_address_from_the_proxy(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as (server, observed):
        observed.release.set()
        with Client(server.port, "/events", headers="X-Forwarded-For: 192.0.2.7:0\r\n") as client:
            client.read_to_end()
    assert "192.0.2.7:0 - " in caplog.text


def test_a_unix_socket_can_be_handed_off(tmp_path: Path) -> None:
    app = build()
    path = str(tmp_path / "socket")
    config = uvicorn.Config(app, uds=path, http=PROTOCOL, loop="asyncio", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            app.state.observed.release.set()
            received = b""
            while data := sock.recv(65536):
                received += data
        assert body_of(received).endswith(HANDED_OFF)
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize(
    "options", [["--workers", "2"], ["--reload", "--reload-dir", "src"]], ids=lambda o: o[0]
)
def test_it_is_turned_on_from_the_command_line(options: list[str]) -> None:
    args = ["--factory", "tests.handoff_app:factory", "--port", "0", "--http", PROTOCOL, *options]
    command = Command([sys.executable, "-m", "uvicorn", *args])
    with run(command) as server:
        with Client(server.port, "/events") as client:
            assert body_of(client.read_to_end()).endswith(HANDED_OFF)
        server.terminate()
        assert server.wait() in (0, -15)
        assert not re.search("ERROR|Traceback", server.output)


def test_gunicorn_with_uvicorns_worker_lets_go_through_the_middleware() -> None:
    command = gunicorn("tests.handoff_app:with_middleware()")
    with run(command) as server:
        with Client(server.port, "/events") as client:
            assert body_of(client.read_to_end()).endswith(HANDED_OFF)
        server.terminate()
        assert server.wait() == 0
        assert not re.search("ERROR|Traceback", server.output)


async def test_under_other_servers_the_middleware_does_nothing() -> None:
    app = build(HANDOFF)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/events")
    assert response.content.count(PORTABLE) == 3
    assert app.state.observed.offers == [None]


def test_h11_is_used_where_httptools_is_missing() -> None:
    source = (
        "import sys; sys.modules['httptools'] = None; sys.modules['uvloop'] = None\n"
        "import sse_hub.uvicorn, uvicorn, tests.handoff_app as app\n"
        "assert 'H11Protocol' in [cls.__name__ for cls in sse_hub.uvicorn.Protocol.__mro__]\n"
        "uvicorn.run(app.factory(), port=0, http='sse_hub.uvicorn:Protocol')\n"
    )
    command = Command([sys.executable, "-u", "-c", source])
    with run(command) as server, Client(server.port, "/events") as client:
        assert body_of(client.read_to_end()).endswith(HANDED_OFF)


# What stands in between.


class Passing:
    """Pure ASGI, changes nothing of the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped_receive() -> Message:
            return await receive()

        async def wrapped_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-passed", b"1")]
            await send(message)

        await self.app(dict(scope), wrapped_receive, wrapped_send)


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
}


@pytest.mark.parametrize("name", PASSING)
def test_middleware_that_leaves_the_body_does_not_prevent_it(name: str) -> None:
    with serving(PASSING["base-http"], PASSING[name]) as (server, observed):
        for _ in range(2):
            with Client(server.port, "/events", headers="Accept-Encoding: gzip\r\nOrigin: x\r\n") as client:
                observed.release.set()
                assert body_of(client.read_to_end()).endswith(HANDED_OFF)
        wait_until(lambda: not server.servers[0].server_state.tasks)


def test_what_the_framework_puts_around_all_middleware_does_not_prevent_it() -> None:
    class Provider(trace.TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
            return trace.NoOpTracer()

    app = build(HANDOFF, telemetry={"tracer_provider": Provider()}, max_body_size=1000)
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


def test_a_preamble_that_comes_too_late_prevents_it() -> None:
    with serving((BaseHTTPMiddleware, {"dispatch": awaits(0.15)})) as (server, observed):
        streams_portably(server, "/events?timeout=0.05")
        assert observed.opened == [True]
        assert observed.offers[0] is not None
        assert observed.offers[0].state is State.WITHDRAWN


@pytest.mark.parametrize("outer", [Passing, Changing, GZipMiddleware])
def test_the_middleware_offers_nothing_inside_another(outer: Any) -> None:
    with serving(HANDOFF, (outer, {}), http="httptools") as (server, observed):
        streams_portably(server)
        assert observed.opened == [False]


# Requests and connections that stay.


def refused(server: ThreadServer, request: bytes) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection((HOST, server.port), timeout=5) as sock:
        sock.sendall(request)
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


STAYING = {
    "http-1.0": b"GET /events HTTP/1.0\r\nHost: x\r\n\r\n",
    "unread": b"POST" + HEAD + b"Content-Length: 4\r\n\r\nbody",
    "incomplete": b"POST" + HEAD + b"Content-Length: 40\r\n\r\nbody",
    "continue": b"GET" + HEAD + b"Expect: 100-continue\r\n\r\n",
    "pipelined": EVENTS + LAST,
}


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_such_requests_are_streamed_portably(http: str) -> None:
    with serving(HANDOFF, http=http) as (server, observed):
        for name, request in STAYING.items():
            received = refused(server, request)
            assert received.count(PORTABLE) == 3, name
            assert HANDED_OFF not in received, name
            assert received.endswith(b"plain") is (name == "pipelined")
            assert observed.opened.pop() is False, name
            assert observed.closed.wait(5)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_the_beginning_of_a_next_request_keeps_it_too(http: str) -> None:
    with serving(HANDOFF, http=http) as (server, observed):
        with socket.create_connection((HOST, server.port), timeout=5) as sock:
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
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    for loop in ("asyncio", "uvloop"):
        with serving(loop=loop, ssl_keyfile=key, ssl_certfile=certificate) as (server, observed):
            plain = socket.create_connection((HOST, server.port), timeout=5)
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
            wait_until(lambda: observed.decisions == [None])
            assert body_of(client.read_to_end()).endswith(PORTABLE * 3)
        assert observed.offers[0] is not None
        assert observed.offers[0].state is State.REFUSED


def test_without_descriptors_it_stays() -> None:
    args = ["--factory", "tests.handoff_app:factory", "--port", "0", "--http", PROTOCOL, "--loop", "asyncio"]
    command = Command([sys.executable, "-m", "uvicorn", *args])
    with run(command) as server, Client(server.port, "/exhausted", headers="Connection: close\r\n") as client:
        assert body_of(client.read_to_end()).endswith(PORTABLE * 3)
        assert not re.search("ERROR|Traceback", server.output)


# Stopping.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_streams_that_left_end_with_their_server(loop: str, capfd: pytest.CaptureFixture[str]) -> None:
    app, other = build(), build()
    streams: list[Any] = [app.state.observed.streams, other.state.observed.streams]
    with ThreadServer(app, other, http=PROTOCOL, loop=loop, log_config=None) as server:
        clients = [Client(port, "/events?keep=1") for port in server.ports for _ in range(2)]
        wait_until(lambda: all(len(each.open) == 2 for each in streams))
        server.stop()
        for client in clients[:2]:
            assert body_of(client.read_to_end()).endswith(GOODBYE)
        server.wait()
        assert len(streams[0].stopped) == 1
        assert streams[0].aborted == []
        assert "lifespan ended with 0 streams" in capfd.readouterr().out
        # The other server, on the same loop, is another one.
        assert streams[1].stopped == []
        server.stop(1)
        for client in clients[2:]:
            assert body_of(client.read_to_end()).endswith(GOODBYE)
        server.wait(1)
        assert streams[0].stopped != streams[1].stopped
        for client in clients:
            client.close()
    numbers = {*streams[0].stopped, *streams[1].stopped}
    del server, app, other
    gc.collect()
    assert not numbers & set(_handed._by_number)


@pytest.mark.parametrize(("grace", "timeout"), [(0.3, None), (30.0, 1)])
def test_streams_that_do_not_end_are_aborted(
    grace: float, timeout: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(timeout_graceful_shutdown=timeout) as (server, observed):
        observed.streams.grace, observed.streams.deaf = grace, True
        with Client(server.port, "/events?keep=1") as client:
            wait_until(lambda: len(observed.streams.open) == 1)
            began = time.monotonic()
            server.stop()
            client.read_to_end()
            assert time.monotonic() - began >= 0.3
            server.wait()
            assert time.monotonic() - began < 2
        assert len(observed.streams.stopped) == len(observed.streams.aborted) == 1
        assert "lifespan ended with 0 streams" in capfd.readouterr().out


def test_an_impatient_stop_aborts_them_at_once() -> None:
    with serving() as (server, observed):
        observed.streams.grace, observed.streams.deaf = 30.0, True
        with Client(server.port, "/events?keep=1") as client:
            wait_until(lambda: len(observed.streams.open) == 1)
            server.stop()
            wait_until(lambda: len(observed.streams.stopped) == 1)
            server.servers[0].force_exit = True
            client.read_to_end()
            server.wait()


@pytest.mark.parametrize("first", [True, False])
def test_nothing_leaves_a_server_that_stops(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if first:  # no shutdown of this process was ever watched
        shutdown: Any = uvicorn.Server.shutdown
        while hasattr(shutdown, "__wrapped__"):
            shutdown = shutdown.__wrapped__
        monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
        monkeypatch.setattr("sse_hub._servers.uvicorn._wrapped_class", None)
        monkeypatch.setattr("sse_hub._handed._wrapped_class", None)
    with serving() as (server, observed):
        with Client(server.port, "/late") as client:
            assert observed.began.wait(5)
            server.stop()
            wait_until(lambda: not server.servers[0].servers[0].is_serving())
            observed.release.set()
            assert body_of(client.read_to_end()).endswith(PORTABLE * 3)
        server.wait()
        assert observed.opened == [False]


async def test_streams_registered_while_their_server_stops_are_stopped_at_once() -> None:
    calls: list[str] = []

    class Late:
        grace = 1.0

        def stop(self, server: int) -> None:
            calls.append("stop")

        def finished(self, server: int) -> bool:
            calls.append("finished")
            return len(calls) > 3

        def abort(self, server: int) -> None:
            calls.append("abort")

    server = uvicorn.Server(uvicorn.Config(build()))
    number = _handed.server_number(server.server_state)
    assert number == _handed.server_number(server.server_state)
    late = Late()
    _handed._servers[server.server_state].begin(server)
    assert _handed.is_stopping(server.server_state)
    handed_off(number, late)
    (task,) = server.server_state.tasks  # so that uvicorn waits
    await task
    assert calls == ["stop", "finished", "finished", "finished"]
    handed_off(number + 1000, late)  # a server that is gone


async def test_streams_are_held_weakly() -> None:
    server = uvicorn.Server(uvicorn.Config(build()))
    observed = Observed()
    handed_off(_handed.server_number(server.server_state), observed.streams)
    ref = weakref.ref(observed.streams)
    del observed
    assert ref() is None
    _handed._servers[server.server_state].begin(server)
    assert not server.server_state.tasks


# The offer by itself.


class Open:
    """A connection that can always leave."""

    server = 7

    def can_leave(self) -> bool:
        return True


class Descriptor:
    """A descriptor to give away: the end of a pipe, so that the other end knows whether it is open."""

    def __init__(self) -> None:
        self.number, self._other = os.pipe()

    def is_closed(self) -> bool:
        try:
            os.write(self._other, b"x")
        except BrokenPipeError:
            return True
        return False

    def close(self) -> None:
        if not self.is_closed():
            os.close(self.number)
        os.close(self._other)


@pytest.fixture
def descriptor() -> Iterator[Descriptor]:
    with closing(Descriptor()) as descriptor:
        yield descriptor


async def test_the_descriptor_goes_to_who_asks_and_once(descriptor: Descriptor) -> None:
    offer = Offer(Open())
    assert offer.server == 7
    assert offer.is_open()
    offer.announce(b"x")
    offer.take(descriptor.number)
    assert not offer.is_open()
    assert await offer.decision() == descriptor.number
    assert await offer.decision() is None
    offer.end()
    assert not descriptor.is_closed()


async def test_it_is_waited_for(descriptor: Descriptor) -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    asyncio.get_running_loop().call_soon(offer.take, descriptor.number)
    assert await offer.decision() == descriptor.number
    assert not descriptor.is_closed()


async def test_refused_is_none_and_stays_so() -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    asyncio.get_running_loop().call_soon(offer.refuse)
    assert await offer.decision() is None
    offer.end()
    assert offer.state is State.REFUSED


async def test_without_an_answer_it_is_withdrawn() -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    assert await offer.decision(timeout=0.01) is None
    assert offer.state is State.WITHDRAWN
    with pytest.raises(AssertionError):
        offer.take(0)


async def test_without_an_announcement_it_is_withdrawn() -> None:
    offer = Offer(Open())
    assert await offer.decision() is None
    assert offer.state is State.WITHDRAWN


@pytest.mark.parametrize("taken", [True, False])
async def test_a_cancelled_caller_leaves_no_descriptor(taken: bool, descriptor: Descriptor) -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    task = asyncio.create_task(offer.decision())
    await asyncio.sleep(0)
    if taken:
        offer.take(descriptor.number)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert offer.state is (State.TAKEN if taken else State.WITHDRAWN)
    assert descriptor.is_closed() is taken


async def test_a_descriptor_nobody_asked_for_is_closed(descriptor: Descriptor) -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    offer.take(descriptor.number)
    offer.end()
    offer.end()
    assert await offer.decision() is None
    assert descriptor.is_closed()


async def test_one_preamble_is_announced() -> None:
    offer = Offer(Open())
    with pytest.raises(ValueError, match="one preamble"):
        offer.announce(b"")
    offer.announce(b"x")
    with pytest.raises(ValueError, match="one preamble"):
        offer.announce(b"y")
