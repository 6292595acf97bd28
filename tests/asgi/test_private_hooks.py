"""The private parts of sse-starlette that programs call, override and reset behave the same here."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import pytest
import sse_hub
import sse_hub.sse as ours
import sse_starlette
import sse_starlette.sse as peer
from scripted import HTTP, Connection, done
from sse_hub import EventSourceResponse, Hub, last_event_id
from sse_hub.sse import AppStatus
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send
from waiting import PATIENCE

PACKAGES = pytest.mark.parametrize("package", [sse_starlette, sse_hub], ids=["sse-starlette", "sse-hub"])


async def one() -> AsyncIterator[Any]:
    await asyncio.sleep(0)
    yield {"data": 1}


def messages(connection: Connection) -> list[tuple[str, Any]]:
    return [(message["type"], message.get("body")) for message in connection.sent]


@PACKAGES
async def test_a_task_group_of_the_programs_own(package: Any) -> None:
    class Response(package.EventSourceResponse):  # type: ignore[misc]
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with anyio.create_task_group() as group:

                async def wrap(method: Any) -> None:
                    await method()
                    group.cancel_scope.cancel()

                group.start_soon(wrap, partial(self.stream, send))
                group.start_soon(wrap, self._listen_for_exit_signal)
                await wrap(partial(self._listen_for_disconnect, receive))

        async def stream(self, send: Send) -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": []})
            async for chunk in self.body_iterator:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            async with self._send_lock:
                self.active = False
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def body() -> AsyncIterator[bytes]:
        yield b"data: 1\r\n\r\n"

    connection = Connection()
    await connection.run(Response(body()))
    assert messages(connection)[1:] == [
        ("http.response.body", b"data: 1\r\n\r\n"),
        ("http.response.body", b""),
    ]


async def test_the_switch_ends_such_a_task_group() -> None:
    waiting = asyncio.create_task(EventSourceResponse._listen_for_exit_signal())
    await asyncio.sleep(0)
    assert not waiting.done()
    AppStatus.should_exit = True
    try:
        async with asyncio.timeout(PATIENCE):
            await waiting
    finally:
        AppStatus.should_exit = False


@PACKAGES
async def test_an_overridden_stream_response_is_called(package: Any) -> None:
    calls: list[str] = []

    class Response(package.EventSourceResponse):  # type: ignore[misc]
        async def _stream_response(self, send: Send) -> None:
            try:
                await super()._stream_response(send)
            finally:
                calls.append("cleanup")

    connection = Connection()
    await connection.run(Response(one()))
    assert calls == ["cleanup"]
    assert messages(connection)[1:] == [
        ("http.response.body", b"data: 1\r\n\r\n"),
        ("http.response.body", b""),
    ]


@PACKAGES
async def test_an_overridden_ping_is_called(package: Any) -> None:
    class Response(package.EventSourceResponse):  # type: ignore[misc]
        async def _ping(self, send: Send) -> None:
            await send({"type": "http.response.body", "body": b": mine\n\n", "more_body": True})
            await anyio.sleep_forever()

    async def endless() -> AsyncIterator[str]:
        yield "tick"
        await asyncio.Event().wait()

    connection = Connection()
    task = connection.start(Response(endless()))
    await connection.until(b": mine\n\n")
    connection.left.set()
    await done(task)


class Overriding(EventSourceResponse):
    """One that takes the task group's path."""

    async def _stream_response(self, send: Send) -> None:
        await super()._stream_response(send)


async def test_such_a_response_ends_with_the_switch_and_says_goodbye() -> None:
    goodbye = anyio.Event()

    async def events() -> AsyncIterator[str]:
        yield "tick"
        await goodbye.wait()
        yield "goodbye"

    connection = Connection()
    response = Overriding(events(), shutdown_event=goodbye, shutdown_grace_period=PATIENCE)
    task = connection.start(response)
    await connection.until(b"tick")
    AppStatus.should_exit = True
    try:
        await done(task)
    finally:
        AppStatus.should_exit = False
    assert connection.body.endswith(b"data: goodbye\r\n\r\n")
    assert connection.complete


async def test_such_a_response_ends_its_body_when_it_is_out_of_grace() -> None:
    async def endless() -> AsyncIterator[str]:
        yield "tick"
        await asyncio.Event().wait()

    connection = Connection()
    task = connection.start(Overriding(endless()))
    await connection.until(b"tick")
    AppStatus.should_exit = True
    try:
        await done(task)
    finally:
        AppStatus.should_exit = False
    assert connection.complete


async def test_such_a_response_raises_its_one_error_as_it_is() -> None:
    async def fails() -> AsyncIterator[str]:
        yield "tick"
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        await Connection().run(Overriding(fails()))


async def test_such_a_response_takes_a_subscription() -> None:
    hub = Hub()
    connection = Connection()
    task = connection.start(Overriding(hub.subscribe("t")))
    await connection.until(b"stream-open")
    hub.publish("t", 1)
    await connection.until(b"data: 1")
    connection.left.set()
    await done(task)
    assert hub.count() == 0


@pytest.mark.parametrize("name", ["sse_starlette", "sse_hub"])
def test_a_fixture_that_resets_private_state_runs(name: str) -> None:
    module = importlib.import_module(f"{name}.sse")
    module.AppStatus.should_exit = False
    module.AppStatus.should_exit_event = None
    if hasattr(module._thread_state, "shutdown_state"):
        del module._thread_state.shutdown_state
    state = module._get_shutdown_state()
    state.events.clear()
    state.watcher_started = False


# -- trio


def on_trio(package: Any, content: Any, **options: Any) -> tuple[list[Message], BaseException | None]:
    """What a response sends under trio, and what it raises."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            await package.EventSourceResponse(content, **options)(HTTP, anyio.sleep_forever, send)

    try:
        anyio.run(main, backend="trio")
    except Exception as error:
        return sent, error
    return sent, None


@PACKAGES
def test_a_response_streams_under_trio(package: Any) -> None:
    async def events() -> AsyncIterator[Any]:
        for n in range(3):
            await anyio.sleep(0.001)
            yield {"data": n}

    sent, error = on_trio(package, events())
    assert error is None
    body = b"".join(message.get("body", b"") for message in sent)
    assert body == b"data: 0\r\n\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n"
    assert sent[-1]["more_body"] is False


@PACKAGES
def test_a_def_generator_streams_under_trio(package: Any) -> None:
    sent, error = on_trio(package, iter(["a", "b"]), ping=1)
    assert error is None
    body = b"".join(message.get("body", b"") for message in sent)
    assert body == b"data: a\r\n\r\ndata: b\r\n\r\n"


def test_a_hubs_stream_says_that_it_needs_asyncio() -> None:
    hub = Hub()

    async def respond() -> None:
        async def send(message: Message) -> None:
            raise AssertionError("the response began")

        await hub.response("t")({**HTTP, "query_string": b""}, anyio.sleep_forever, send)

    async def subscribe() -> None:
        hub.subscribe("t")

    for function in (respond, subscribe):
        with pytest.raises(RuntimeError, match="asyncio"):
            anyio.run(function, backend="trio")


# -- log lines


@pytest.mark.parametrize("module", [peer, ours], ids=["sse-starlette", "sse-hub"])
async def test_chunks_are_logged_for_debugging(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, module.logger.name)
    await Connection().run(module.EventSourceResponse(one()))
    assert [record.getMessage() for record in caplog.records] == [r"chunk: b'data: 1\r\n\r\n'"]


# -- the last event id of a request


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ([], b"", None),
        ([(b"last-event-id", b"h")], b"", "h"),
        ([(b"last-event-id", b"h")], b"last_event_id=q", "h"),
        ([(b"last-event-id", b"")], b"", None),
        ([(b"last-event-id", b"")], b"last_event_id=q", "q"),
        ([(b"last-event-id", b"")], b"lastEventId=q", "q"),
        ([], b"last_event_id=&lastEventId=q", "q"),
        ([], b"last_event_id=", None),
        ([(b"last-event-id", "zürich".encode())], b"", "zürich"),
    ],
)
def test_the_last_event_id_of_a_request(headers: Any, query: bytes, expected: str | None) -> None:
    scope = {**HTTP, "headers": headers, "query_string": query}
    assert last_event_id(scope) == expected
    assert last_event_id(Request(scope)) == expected
