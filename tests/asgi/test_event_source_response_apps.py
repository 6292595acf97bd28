"""``EventSourceResponse`` in real applications: FastAPI's generators, middleware, uvicorn's shutdown."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import anyio
import httpx
import pytest
import sse_hub
import sse_starlette
from fastapi import BackgroundTasks, Depends, FastAPI
from live import PATIENCE, serve
from loops import LOOPS
from servers import Client
from sse_hub import EventSourceResponse
from sse_hub.sse import AppStatus
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from waiting import promised


def fastapi_app(library: Any, notes: list[str]) -> FastAPI:
    """Path operations that yield, with either library's response class."""
    app = FastAPI()

    def dependency() -> Iterator[str]:
        notes.append("opened")
        yield "dependency"
        notes.append("closed")

    @app.get("/generator", response_class=library.EventSourceResponse)
    async def generator(background: BackgroundTasks, value: str = Depends(dependency)) -> AsyncIterator[Any]:
        background.add_task(notes.append, "background")
        yield "text"
        yield {"event": "dict", "id": "1", "data": value}
        yield library.ServerSentEvent("object", event="e", retry=5)
        yield library.JSONServerSentEvent({"a": [1, None]})
        yield b": raw\r\n\r\n"
        yield 7

    @app.get("/sync", response_class=library.EventSourceResponse)
    def sync() -> Iterator[Any]:
        yield {"data": "one\ntwo"}
        yield 2

    @app.post("/status", response_class=library.EventSourceResponse, status_code=202)
    async def status(response: Response) -> AsyncIterator[str]:
        response.headers["X-Mine"] = "yes"
        yield "accepted"

    @app.get("/returned")
    async def returned() -> Any:
        async def events() -> AsyncIterator[int]:
            yield 1

        return library.EventSourceResponse(events(), headers={"X-Mine": "yes"})

    return app


def answers(library: Any) -> list[Any]:
    notes: list[str] = []
    found: list[Any] = []
    with serve(fastapi_app(library, notes)) as server:
        for method, path in [
            ("GET", "/generator"), ("GET", "/sync"), ("POST", "/status"), ("GET", "/returned"),
            ("HEAD", "/returned"), ("GET", "/openapi.json"),
        ]:  # fmt: skip
            response = server.http.request(method, path)
            headers = {name: value for name, value in response.headers.items() if name != "date"}
            found.append((path, response.status_code, headers, response.content))
    return [*found, notes]


def test_fastapi_answers_as_with_the_peer() -> None:
    assert answers(sse_hub) == answers(sse_starlette)


def order_of(library: Any, how: str) -> list[str]:
    """In which order everything around a generator begins and ends, and in which context."""
    notes: list[str] = []
    name = ContextVar("name", default="outside")
    over = threading.Event()
    app = FastAPI()

    def note(what: str) -> None:
        notes.append(f"{what} in {name.get()}")

    async def dependency() -> AsyncIterator[None]:
        name.set("the dependency's context")
        note("dependency opened")
        try:
            yield
        finally:
            note("dependency closed")
            over.set()

    async def content() -> AsyncIterator[str]:
        note("content began")
        try:
            if how == "fails first":
                raise LookupError("no more")
            yield "event"
            if how == "fails":
                raise LookupError("no more")
            if how == "leaves":
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            note("content cancelled")
            raise
        finally:
            note("content closed")

    async def sender() -> None:
        note("sender began")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            note("sender ended")

    async def left(message: Any) -> None:
        note("client left")
        await asyncio.sleep(0)
        note("handler ended")

    @app.get("/", dependencies=[Depends(dependency)])
    async def stream() -> Any:
        # Where both would run, the order of what is cancelled is the peer's task group's, and ours.
        own: Any = {"client_close_handler_callable": left} if how == "leaves" else {}
        if how != "leaves":
            own["data_sender_callable"] = sender
        return library.EventSourceResponse(content(), background=BackgroundTask(note, "background"), **own)

    with serve(app) as server, Client(server.port, "/", headers="Connection: close\r\n") as client:
        if how == "leaves":
            client.read_until(b"data: event")
            client.close()
        assert over.wait(PATIENCE)
    return notes


@pytest.mark.parametrize("how", ["ends", "leaves", "fails", "fails first"])
def test_everything_begins_and_ends_in_the_order_of_the_peer(how: str) -> None:
    order = order_of(sse_hub, how)
    assert order == order_of(sse_starlette, how)
    assert all(each.endswith(" in the dependency's context") for each in order)


@pytest.mark.parametrize("handoff", [None, True])
def test_a_data_sender_feeds_a_stream_and_ends_with_it(handoff: bool | None) -> None:
    app = FastAPI()
    ended = threading.Event()

    @app.get("/")
    async def stream() -> EventSourceResponse:
        send, receive = anyio.create_memory_object_stream[int](1)

        async def sender() -> None:
            try:
                async with send:
                    for number in itertools.count():
                        await send.send(number)
            finally:
                ended.set()

        return EventSourceResponse(receive, data_sender_callable=sender, handoff=handoff)

    with serve(app) as server:
        with server.stream("/") as events:
            assert [events.next().data for _ in range(1000)] == [str(number) for number in range(1000)]
        assert ended.wait(PATIENCE)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_send_that_takes_too_long_breaks_the_stream_off(
    loop: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app = FastAPI()
    ended = threading.Event()

    @app.get("/")
    async def stream() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            try:
                while True:
                    yield "x" * 100_000
            finally:
                ended.set()

        return EventSourceResponse(events(), send_timeout=0.2)

    with serve(app, loop=loop) as server, Client(server.port, "/", receive_buffer=4096) as client:
        assert ended.wait(PATIENCE)
        with pytest.raises((AssertionError, ConnectionError)):
            client.read_until(b"0\r\n\r\n")
    assert "SendTimeoutError" in capfd.readouterr().err


def test_a_client_that_leaves_a_fastapi_generator() -> None:
    ended = threading.Event()
    notes: list[str] = []
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def stream() -> AsyncIterator[str]:
        try:
            yield "hello"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise
        finally:
            notes.append("finally")
            ended.set()

    with serve(app) as server:
        with server.stream("/") as events:
            assert events.next().data == "hello"
        assert ended.wait(PATIENCE)
    assert notes == ["cancelled", "finally"]


def test_through_middleware_that_wraps_both_channels() -> None:
    ended = threading.Event()
    app = FastAPI()

    async def passes(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Passed"] = "yes"
        return response

    app.add_middleware(BaseHTTPMiddleware, dispatch=passes)

    @app.get("/finite")
    async def finite() -> EventSourceResponse:
        return EventSourceResponse(iter(["a", "b"]))

    @app.get("/endless")
    async def endless() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            try:
                yield "hello"
                await asyncio.Event().wait()
            finally:
                ended.set()

        return EventSourceResponse(
            events(), ping=0.02, ping_message_factory=lambda: {"event": "ping", "data": "p"}
        )

    with serve(app) as server:
        response = server.http.get("/finite")
        assert response.content == b"data: a\r\n\r\ndata: b\r\n\r\n"
        assert response.headers["x-passed"] == "yes"
        with server.stream("/endless") as events:
            assert events.next().data == "hello"
            # Pings interrupt the wait for the client to leave.
            assert [events.next().event for _ in range(2)] == ["ping", "ping"]
        assert ended.wait(PATIENCE)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stopping_server_ends_streams_after_their_farewell(loop: str) -> None:
    bodies: list[bytes] = []
    ready = threading.Barrier(3)
    app = FastAPI()

    @app.get("/")
    async def stream() -> EventSourceResponse:
        stopping = anyio.Event()

        async def events() -> AsyncIterator[str]:
            yield "hello"
            await stopping.wait()
            yield "farewell"

        return EventSourceResponse(events(), shutdown_event=stopping, shutdown_grace_period=5, sep="\n")

    @app.get("/impolite")
    async def impolite() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            yield "hello"
            await asyncio.Event().wait()

        return EventSourceResponse(events(), sep="\n")

    def read(url: str) -> None:
        body = b""
        with httpx.stream("GET", url, timeout=PATIENCE, trust_env=False) as response:
            for chunk in response.iter_raw():
                if not body:
                    ready.wait(PATIENCE)
                body += chunk
        bodies.append(body)

    with serve(app, loop=loop) as server:
        readers = [threading.Thread(target=read, args=(server.url + path,)) for path in ("/", "/impolite")]
        for reader in readers:
            reader.start()
        ready.wait(PATIENCE)
        began = time.monotonic()
    for reader in readers:
        reader.join(PATIENCE)
    # Both bodies came to an orderly end; httpx raises where one does not.
    assert sorted(bodies) == [b"data: hello\n\n", b"data: hello\n\ndata: farewell\n\n"]
    assert time.monotonic() - began < promised(3)


def test_streams_of_a_later_server_are_not_ended_by_an_earlier_ones_stop() -> None:
    app = FastAPI()

    @app.get("/")
    async def stream() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            yield "hello"
            await asyncio.sleep(0.05)
            yield "still here"

        return EventSourceResponse(events())

    for _ in range(2):
        with serve(app) as server:
            response = server.http.get("/")
            assert response.content == b"data: hello\r\n\r\ndata: still here\r\n\r\n"
    assert AppStatus.should_exit is False


def test_should_exit_tells_that_a_server_stops_and_ends_no_other_servers_streams() -> None:
    streaming, leave, asked = threading.Event(), threading.Event(), threading.Event()
    stops, goes_on = FastAPI(), FastAPI()

    @stops.get("/")
    async def slow_to_end() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            yield "hello"
            await asyncio.to_thread(asked.wait, PATIENCE)

        return EventSourceResponse(events(), shutdown_grace_period=PATIENCE)

    @goes_on.get("/")
    async def two() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            yield "one"
            yield "two"

        return EventSourceResponse(events())

    def stop_one() -> None:
        with ExitStack() as stack:
            client = stack.enter_context(httpx.Client(timeout=PATIENCE, trust_env=False))
            with serve(stops) as server:
                stack.enter_context(client.stream("GET", server.url))
                streaming.set()
                leave.wait(PATIENCE)

    thread = threading.Thread(target=stop_one)
    with serve(goes_on) as other:
        thread.start()
        assert streaming.wait(PATIENCE)
        assert AppStatus.should_exit is False
        leave.set()
        deadline = time.monotonic() + PATIENCE
        while not AppStatus.should_exit:
            assert time.monotonic() < deadline, "nobody is told"
            time.sleep(0.001)
        # A stream of another server that begins now is not affected.
        assert other.http.get("/").content == b"data: one\r\n\r\ndata: two\r\n\r\n"
        asked.set()
        thread.join(PATIENCE)
        assert AppStatus.should_exit is False


def test_without_the_drain_streams_outlive_the_stop_until_should_exit() -> None:
    app = FastAPI()
    AppStatus.disable_automatic_graceful_drain()

    @app.get("/")
    async def stream() -> EventSourceResponse:
        async def events() -> AsyncIterator[str]:
            yield "hello"
            while True:
                await asyncio.sleep(0.01)
                yield "more"

        return EventSourceResponse(events())

    def let_go() -> None:
        stopped.wait(PATIENCE)
        AppStatus.should_exit = True

    first, stopped = threading.Event(), threading.Event()
    try:
        seen = []
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client, serve(app) as server:
            reading = threading.Thread(target=let_go)
            reading.start()

            def read() -> None:
                with client.stream("GET", server.url) as response:
                    for chunk in response.iter_raw():
                        seen.append(chunk)
                        first.set()
                        if len(seen) == 20:
                            stopped.set()

            reader = threading.Thread(target=read)
            reader.start()
            assert first.wait(PATIENCE)
        reading.join(PATIENCE)
        reader.join(PATIENCE)
        # The server was told to stop after the first event, and the stream went on.
        assert len(seen) >= 20
    finally:
        AppStatus.enable_automatic_graceful_drain_mode()
        AppStatus.should_exit = False
