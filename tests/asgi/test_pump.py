"""A generator's events under uvicorn go to the connection without a message each; nothing else may change."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from held_back import Many, check_held_back
from let_go import chunks_of
from live import Server, serve
from servers import Client, self_signed
from sse_hub import EventSourceResponse
from sse_hub._servers.uvicorn_writing import connection_of
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from waiting import PATIENCE

HTTP = pytest.mark.parametrize("http", ["httptools", "h11"])
LOOP = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


class Spy:
    """Middleware that sees each message of a body."""

    def __init__(self, app: ASGIApp, seen: list[bytes]) -> None:
        self.app, self.seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watching(message: Message) -> None:
            if message.get("body"):
                self.seen.append(message["body"])
            await send(message)

        await self.app(scope, receive, watching)


@contextmanager
def streaming(content: Callable[[], Any], app: FastAPI | None = None, **options: Any) -> Iterator[Server]:
    app = app or FastAPI()

    @app.get("/")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(content(), ping=0, sep="\n")

    with serve(app, **options) as server:
        yield server


def encrypted(directory: Path, tls: bool) -> dict[str, str]:
    """The options of a server, which encrypts if ``tls``."""
    if not tls:
        return {}
    key, certificate, _ = self_signed(directory)
    return {"ssl_keyfile": key, "ssl_certfile": certificate}


def trusting(directory: Path) -> ssl.SSLContext:
    """What a client needs for that."""
    context = ssl.create_default_context(cafile=directory / "cert.pem")
    context.check_hostname = False
    return context


def body(server: Server) -> str:
    response = server.http.get("/")
    assert response.status_code == 200
    return response.text


@HTTP
@LOOP
@pytest.mark.parametrize("tls", [False, True])
def test_every_kind_of_item_arrives_in_order_and_the_connection_is_kept(
    http: str, loop: str, tls: bool, tmp_path: Path
) -> None:
    async def content() -> AsyncIterator[Any]:
        yield "a"
        yield {"data": "b", "id": "1"}
        await asyncio.sleep(0)
        yield b": raw\n\n"
        yield b""
        yield 5
        await asyncio.sleep(0.01)
        yield "c\nd"

    expected = "data: a\n\nid: 1\ndata: b\n\n: raw\n\ndata: 5\n\ndata: c\ndata: d\n\n"
    with streaming(content, http=http, loop=loop, **encrypted(tmp_path, tls)) as server:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        with Client(server.port, "/", tls=trusting(tmp_path) if tls else None) as client:
            for _ in range(2):  # the same connection serves the next request
                answer = client.read_until(b"\r\n0\r\n\r\n")
                assert b"".join(chunks_of(answer)).decode() == expected
                client.sock.sendall(request)


@HTTP
def test_a_large_stream_that_never_waits_is_whole_and_others_are_served_meanwhile(http: str) -> None:
    stop = threading.Event()

    async def content() -> AsyncIterator[str]:
        number = 0
        while not stop.is_set():
            yield f"{number}"
            number += 1
        yield "end"

    app = FastAPI()

    @app.get("/stop")
    async def end() -> None:
        stop.set()

    with streaming(content, app, http=http) as server, server.stream("/") as events:
        assert events.next().data == "0"
        # The content never awaits, and its client reads nothing more for now.
        assert server.http.get("/stop").status_code == 200
        numbers = [event.data for event in events.rest()]
    assert numbers[-1] == "end"
    assert numbers[:-1] == [str(number) for number in range(1, len(numbers))]


@HTTP
@LOOP
@pytest.mark.parametrize("way", ["plain", "tls", "behind middleware"])
def test_a_client_with_a_small_window_that_stalls_holds_the_generator_back(
    http: str, loop: str, way: str, tmp_path: Path
) -> None:
    content, app = Many(), FastAPI()
    if way == "behind middleware":
        app.add_middleware(Spy, seen=[])
    options = {"receive_buffer": 4096, "headers": "Connection: close\r\n"}
    with streaming(content, app, http=http, loop=loop, **encrypted(tmp_path, way == "tls")) as server:
        tls = trusting(tmp_path) if way == "tls" else None

        def ask() -> None:
            with Client(server.port, "/nothing", tls=tls, headers="Connection: close\r\n") as other:
                other.read_to_end()

        with Client(server.port, "/", tls=tls, **options) as slow:
            check_held_back(content, slow.sock, ask)


def test_an_event_is_written_before_the_step_after_it_blocks_the_loop() -> None:
    go_on = threading.Event()

    async def content() -> AsyncIterator[str]:
        for token in "abcd":
            yield token
            if token == "a":
                # A model that computes on the loop: a mistake, and a frequent one.
                assert go_on.wait(PATIENCE)

    with streaming(content) as server, server.stream("/") as events:
        assert events.next().data == "a"
        go_on.set()
        assert [event.data for event in events.rest()] == ["b", "c", "d"]


def test_content_runs_in_its_response_s_context_and_a_failure_breaks_the_body_off(
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = contextvars.ContextVar("name", default="outside")
    closed: list[str] = []

    async def content() -> AsyncIterator[str]:
        name.set("inside")
        try:
            yield "before"
            await asyncio.sleep(0)
            yield name.get()
            raise LookupError("no more")
        finally:
            closed.append(name.get())

    with streaming(content) as server, server.stream("/") as events:
        assert [events.next().data, events.next().data] == ["before", "inside"]
        with pytest.raises(Exception, match=r"peer closed|incomplete"):
            events.rest()
    assert closed == ["inside"]
    assert "LookupError: no more" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["waiting", "ignoring", "never waiting"])
def test_a_client_that_leaves_ends_the_content(how: str) -> None:
    ended = threading.Event()

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "tick"
                if how == "never waiting":
                    continue
                try:
                    await asyncio.sleep(PATIENCE)
                except asyncio.CancelledError:
                    if how == "waiting":
                        raise
        finally:
            ended.set()

    with streaming(content) as server:
        with server.stream("/") as events:
            assert events.next().data == "tick"
        assert ended.wait(PATIENCE)
        assert server.http.get("/nothing").status_code == 404


def test_an_own_timeout_is_no_end() -> None:
    async def content() -> AsyncIterator[str]:
        for _ in range(3):
            try:
                async with asyncio.timeout(0):
                    await asyncio.sleep(PATIENCE)
            except TimeoutError:
                yield "late"

    with streaming(content) as server:
        assert body(server) == "data: late\n\n" * 3


def test_middleware_that_is_not_known_sees_every_byte() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        await asyncio.sleep(0)
        yield "c"

    seen: list[bytes] = []
    app = FastAPI()
    app.add_middleware(Spy, seen=seen)
    with streaming(content, app) as server:
        assert body(server) == "data: a\n\ndata: b\n\ndata: c\n\n"
    assert b"".join(seen) == b"data: a\n\ndata: b\n\ndata: c\n\n"


@HTTP
def test_what_stands_between_decides_who_writes(http: str) -> None:
    found: dict[str, bool] = {}

    class Probe(EventSourceResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            found[scope["path"]] = connection_of(receive, send) is not None
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def application(*middleware: tuple[Any, dict[str, Any]]) -> FastAPI:
        app = FastAPI()
        for cls, options in middleware:
            app.add_middleware(cls, **options)

        @app.get("/{name}")
        async def events(name: str) -> Probe:
            return Probe([])

        return app

    plain = application((CORSMiddleware, {"allow_origins": ["*"]}), (SessionMiddleware, {"secret_key": "x"}))
    wrapped = application((Spy, {"seen": []}))
    decorated = application()

    @decorated.middleware("http")
    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    for name, app in (("plain", plain), ("wrapped", wrapped), ("decorated", decorated)):
        with serve(app, http=http) as server:
            assert server.http.get(f"/{name}", headers={"Origin": "http://x"}).status_code == 200
    assert found == {"/plain": True, "/wrapped": False, "/decorated": False}
