"""``EventSourceResponse(generator, handoff=True)``: the request ends, and the generator streams on."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI
from held_back import Many, check_held_back
from let_go import Content, client, read_to_end, streaming
from live import serve
from servers import Client, self_signed
from sse_hub import EventSourceResponse
from sse_hub.sse import AppStatus
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from waiting import PATIENCE, until

HTTP = pytest.mark.parametrize("http", ["httptools", "h11"])
LOOP = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


@HTTP
@LOOP
def test_the_request_ends_and_every_event_arrives(http: str, loop: str) -> None:
    go_on = threading.Event()

    async def content() -> AsyncIterator[Any]:
        yield "a"
        yield {"data": "b", "id": "1"}
        await asyncio.to_thread(go_on.wait, PATIENCE)
        for number in range(1000):
            yield number
        await asyncio.sleep(0)
        yield b"data: last\n\n"

    background: list[str] = []
    options = {"background": BackgroundTask(background.append, "ran")}
    with streaming(content, server={"http": http, "loop": loop}, **options) as (server, requests):
        with server.stream("/") as events:
            assert [events.next().data, events.next().data] == ["a", "b"]
            until(lambda: requests == [])
            assert background == []
            go_on.set()
            assert [event.data for event in events.rest()] == [*map(str, range(1000)), "last"]
        until(lambda: background == ["ran"])
        # On a connection of its own: the stream's closes with it, and the client may not have noticed yet.
        assert httpx.get(server.url + "/nothing").status_code == 404


@HTTP
@LOOP
def test_it_leaves_over_tls_too(http: str, loop: str, tmp_path: Path) -> None:
    go_on = threading.Event()

    async def content() -> AsyncIterator[str]:
        yield "a"
        await asyncio.to_thread(go_on.wait, PATIENCE)
        for number in range(1000):
            yield str(number) * 100

    key, certificate, context = self_signed(tmp_path)
    options = {"http": http, "loop": loop, "ssl_keyfile": key, "ssl_certfile": certificate}
    with (
        streaming(content, server=options) as (server, requests),
        Client(server.port, "/", tls=context) as stream,
    ):
        stream.read_until(b"data: a\n\n")
        until(lambda: requests == [])
        go_on.set()
        # The end of the body, and the end of TLS: what the client's library raises otherwise fails the test.
        rest = stream.read_to_end()
    assert rest.endswith(b"0\r\n\r\n")
    assert [rest.count(b"data: " + str(number).encode() * 100 + b"\n\n") for number in range(1000)] == [
        1
    ] * 1000


def test_only_one_task_remains_and_the_context_is_the_request_s() -> None:
    name = contextvars.ContextVar("name", default="outside")
    seen: list[Any] = []

    async def content() -> AsyncIterator[str]:
        name.set("inside")
        yield "a"
        await asyncio.sleep(0)
        own = asyncio.current_task()
        # uvicorn's own task, and this one.
        seen.append(len([task for task in asyncio.all_tasks() if task is not own]))
        yield name.get()

    with streaming(content) as (server, _), server.stream("/") as events:
        assert [event.data for event in events.rest()] == ["a", "inside"]
    assert seen[0] <= 2


@pytest.mark.parametrize("end", ["client", "server"])
def test_what_runs_at_its_end_runs_in_the_context_of_the_request(end: str) -> None:
    name = contextvars.ContextVar("name", default="outside")
    seen: list[str] = []
    app = FastAPI()
    content = Content()

    async def note(*_: Any) -> None:
        seen.append(name.get())

    def ping() -> bytes:
        return f": {name.get()}\n\n".encode()

    @app.get("/")
    async def events() -> EventSourceResponse:
        name.set("the request's")
        return EventSourceResponse(
            content(),
            handoff=True,
            ping=0.01,
            ping_message_factory=ping,
            client_close_handler_callable=note,
            background=BackgroundTask(note),
        )

    with ExitStack() as clients, serve(app) as server:
        connection = clients.enter_context(client(server))
        received = b""
        while b": the request's\n\n" not in received:
            received += connection.recv(65536)
        if end == "client":
            connection.close()
            until(lambda: len(seen) == 2)
    assert seen == ["the request's"] * (2 if end == "client" else 1)


@pytest.mark.parametrize("how", ["waits", "swallows", "yields"])
def test_a_client_that_leaves_ends_the_content(how: str, caplog: pytest.LogCaptureFixture) -> None:
    content = Content(how)
    calls: list[str] = []

    async def left(message: Any) -> None:
        calls.append(message["type"])

    options = {
        "client_close_handler_callable": left,
        "background": BackgroundTask(calls.append, "background"),
        "cleanup_timeout": 0,
    }
    with streaming(content, **options) as (server, _), server.stream("/") as events:
        assert events.next().data == "hello"
        assert content.waits.wait(PATIENCE)
        events.response.close()
        until(lambda: "background" in calls)
    times = 2 if how == "swallows" else 1
    assert content.notes == [*["cancelled"] * times, *([] if how == "yields" else ["cleaned up"])]
    assert calls == ["http.disconnect", "background"]


@HTTP
@LOOP
def test_a_client_with_a_small_window_holds_the_generator_back(http: str, loop: str) -> None:
    content = Many()
    with streaming(content, server={"http": http, "loop": loop}) as (server, _), client(server, 4096) as slow:
        check_held_back(content, slow, lambda: server.http.get("/nothing"))


def test_goodbye_within_the_grace_period() -> None:
    app = FastAPI()
    received: list[bytes] = []

    @app.get("/")
    async def events() -> EventSourceResponse:
        event = anyio.Event()

        async def told() -> AsyncIterator[str]:
            yield "hello"
            await event.wait()
            yield "goodbye"

        return EventSourceResponse(
            told(), handoff=True, ping=0, sep="\n", shutdown_event=event, shutdown_grace_period=PATIENCE
        )

    with serve(app) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = b""
        while b"data: hello" not in head:
            head += connection.recv(65536)
        reading = threading.Thread(target=lambda: received.append(read_to_end(connection)))
        reading.start()
    reading.join(PATIENCE)
    connection.close()
    assert received[0].endswith(b"data: goodbye\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("events", [0, 2])
def test_an_exception_breaks_the_body_off_and_is_logged(
    events: int, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []
    background: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            for number in range(events):
                yield str(number)
            raise LookupError("no more")
        finally:
            closed.append(True)

    options = {"background": BackgroundTask(background.append, "ran")}
    with streaming(content, **options) as (server, _), server.stream("/") as stream:
        for number in range(events):
            assert stream.next().data == str(number)
        with pytest.raises(Exception, match=r"peer closed|incomplete"):
            stream.rest()
    assert closed == [True]
    assert background == []
    assert "A stream that was handed off failed" in caplog.text
    assert "LookupError: no more" in caplog.text


def test_dependencies_close_when_the_stream_begins_unless_they_are_held() -> None:
    app = FastAPI()
    opened: list[str] = []
    content = Content()

    async def session() -> AsyncIterator[str]:
        opened.append("session")
        yield "session"
        opened.remove("session")

    class Overriding(EventSourceResponse):
        async def _ping(self, send: Send) -> None:
            await super()._ping(send)

    @app.get("/{how}")
    async def events(how: str, session: str = Depends(session)) -> EventSourceResponse:
        response = Overriding if how == "overriding" else EventSourceResponse
        options: dict[str, Any] = {"status_code": 201} if how == "stays" else {}
        return response(content(), handoff=True, hold_dependencies=how == "held", **options)

    with serve(app) as server:
        for how in ("let-go", "stays", "overriding"):
            with server.stream(f"/{how}") as stream:
                assert stream.next().data == "hello"
                until(lambda: opened == [])
        with server.stream("/held") as stream:
            assert stream.next().data == "hello"
            assert opened == ["session"]


def test_pings_go_out_between_events() -> None:
    content = Content()
    with (
        streaming(content, ping=0.01, ping_message_factory=lambda: b": ping\n\n") as (server, _),
        client(server) as connection,
    ):
        received = b""
        while received.count(b": ping\n\n") < 3:
            received += connection.recv(65536)
    assert received.index(b"data: hello") < received.index(b": ping\n\n")


def test_a_send_that_takes_too_long_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 100_000
        finally:
            notes.append("cleaned up")

    with streaming(content, send_timeout=0.2) as (server, _), client(server, 4096):
        until(lambda: notes == ["cleaned up"])
        until(lambda: "SendTimeoutError" in caplog.text)


def test_app_status_ends_them() -> None:
    content = Content()
    with streaming(content) as (server, _), server.stream("/") as stream:
        assert stream.next().data == "hello"
        try:
            AppStatus.should_exit = True
            assert stream.rest() == []
        finally:
            AppStatus.should_exit = False
    assert content.notes == ["cancelled", "cleaned up"]


@pytest.mark.parametrize("why", ["middleware", "environment", "status"])
def test_a_stream_that_cannot_leave_streams_all_the_same(
    why: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(0)
        under_way.append(list(requests))
        yield "b"

    app = FastAPI()
    under_way: list[Any] = []
    options: dict[str, Any] = {}
    if why == "middleware":
        app.add_middleware(GZipMiddleware, minimum_size=1)
        options = {"media_type": "text/plain"}
    elif why == "environment":
        monkeypatch.setenv("SSE_HUB_HANDOFF", "0")
    else:
        options = {"status_code": 201}
    with streaming(content, app, **options) as (server, requests):
        response = server.http.get("/", headers={"Accept-Encoding": "gzip"})
    text = response.text.replace(response.text[: response.text.index("data: a")], "")
    assert text == "data: a\n\ndata: b\n\n"
    assert under_way == [["/"]]


def test_a_request_that_asks_whether_its_client_left_gets_the_truth() -> None:
    app = FastAPI()
    asked: list[bool] = []

    @app.get("/")
    async def events(request: Request) -> EventSourceResponse:
        async def content() -> AsyncIterator[str]:
            for number in range(3):
                asked.append(await request.is_disconnected())
                yield str(number)
                await asyncio.sleep(0)

        return EventSourceResponse(content(), handoff=True, ping=0)

    with serve(app) as server, server.stream("/") as stream:
        assert [event.data for event in stream.rest()] == ["0", "1", "2"]
    assert asked == [False] * 3


def test_it_leaves_through_middleware_that_runs_the_app_in_a_task_of_its_own() -> None:
    app = FastAPI()
    go_on = threading.Event()

    @app.middleware("http")
    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async def content() -> AsyncIterator[str]:
        yield "a"
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "b"

    with streaming(content, app) as (server, requests), server.stream("/") as stream:
        assert stream.next().data == "a"
        until(lambda: requests == [])
        go_on.set()
        assert [event.data for event in stream.rest()] == ["b"]


class Failing:
    """Middleware that fails when the request is over."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            raise LookupError("too late to matter")


@HTTP
@LOOP
def test_middleware_that_fails_afterwards_does_not_end_it(
    http: str, loop: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app = FastAPI()
    app.add_middleware(Failing)
    go_on = threading.Event()

    async def content() -> AsyncIterator[str]:
        yield "a"
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "b"

    options = {"http": http, "loop": loop}
    with streaming(content, app, server=options) as (server, _), server.stream("/") as stream:
        assert stream.next().data == "a"
        until(lambda: "too late to matter" in capfd.readouterr().err)
        go_on.set()
        assert [event.data for event in stream.rest()] == ["b"]


def test_content_of_a_def_generator_leaves_too() -> None:
    def content() -> Iterator[str]:
        yield "a"
        yield "b"

    with streaming(content) as (server, requests), server.stream("/") as stream:
        assert [event.data for event in stream.rest()] == ["a", "b"]
        assert requests == []


def test_nothing_is_logged_when_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    content = Content()
    with caplog.at_level(logging.WARNING), streaming(content) as (server, _):
        with server.stream("/") as stream:
            assert stream.next().data == "hello"
        until(lambda: content.notes == ["cancelled", "cleaned up"])
    assert caplog.text == ""
