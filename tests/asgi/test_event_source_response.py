"""``EventSourceResponse``: every way a stream runs and ends, on a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from scripted import HTTP, Connection, Endless, done, three
from sse_hub import EventSourceResponse, ServerSentEvent
from sse_hub.sse import SendTimeoutError
from starlette.background import BackgroundTask
from starlette.types import Message


async def test_everything_a_generator_may_yield() -> None:
    async def events() -> AsyncIterator[Any]:
        yield "text\nlines"
        yield {"event": "e", "id": "1", "data": 2, "sep": "\r\n"}
        yield ServerSentEvent("own", sep="\r\n")
        yield b": raw\n\n"
        yield memoryview(b": view\n\n")
        yield 5

    connection = Connection()
    await connection.run(EventSourceResponse(events(), sep="\n"))
    parts = [
        b"data: text\ndata: lines\n\n",
        b"id: 1\nevent: e\ndata: 2\n\n",
        b"data: own\r\n\r\n",
        b": raw\n\n",
        b": view\n\n",
        b"data: 5\n\n",
    ]
    assert connection.body == b"".join(parts)
    # Its messages: the head, the first event at once, what was ready then, and the end.
    assert connection.sent[1]["body"] == parts[0]
    assert [message["more_body"] for message in connection.sent[1:-1]] == [True] * (len(connection.sent) - 2)
    assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_an_iterable_is_iterated_in_a_thread_and_lazily() -> None:
    import threading

    threads = []

    def events() -> Iterator[int]:
        threads.append(threading.current_thread())
        yield 1
        yield 2

    response = EventSourceResponse(events(), sep="\n")
    assert threads == []
    connection = Connection()
    await connection.run(response)
    assert connection.body == b"data: 1\n\ndata: 2\n\n"
    assert threads[0] is not threading.main_thread()
    listed = Connection()
    await listed.run(EventSourceResponse([7], sep="\n"))
    assert listed.body == b"data: 7\n\n"


async def test_two_tasks_and_one_of_them_drives_the_generator() -> None:
    source = Endless()
    connection = Connection()
    before = asyncio.all_tasks()
    task = connection.start(EventSourceResponse(source.events()))
    await connection.until(b"hello")
    assert len(asyncio.all_tasks() - before) == 2
    connection.left.set()
    await done(task)
    assert len(source.tasks) == 1
    assert asyncio.all_tasks() == before


async def test_when_the_client_leaves() -> None:
    order: list[Any] = []
    source = Endless()

    async def closed(message: Message) -> None:
        order.append(message)
        order.append(list(source.notes))

    response = EventSourceResponse(
        source.events(),
        client_close_handler_callable=closed,
        background=BackgroundTask(order.append, "background"),
    )
    connection = Connection()
    task = connection.start(response)
    await connection.until(b"hello")
    assert response.active
    connection.left.set()
    await done(task)
    assert order == [{"type": "http.disconnect"}, [], "background"]
    assert source.notes == ["cancelled", "cleaned up"]
    assert not response.active
    assert not connection.complete


async def test_an_error_of_the_close_handler_comes_out_and_the_generator_is_cleaned_up() -> None:
    source = Endless()

    async def closed(message: Message) -> None:
        raise LookupError("handler")

    connection = Connection()
    task = connection.start(EventSourceResponse(source.events(), client_close_handler_callable=closed))
    await connection.until(b"hello")
    connection.left.set()
    with pytest.raises(LookupError, match="handler"):
        await done(task)
    assert source.notes == ["cancelled", "cleaned up"]


async def test_a_completed_response_is_no_client_that_left() -> None:
    # Servers end receive() with http.disconnect as soon as the response is complete.
    calls: list[Message] = []

    async def closed(message: Message) -> None:
        calls.append(message)

    connection = Connection()

    async def send(message: Message) -> None:
        await connection.send(message)
        if connection.complete:
            connection.left.set()

    background: list[str] = []
    response = EventSourceResponse(
        three(), client_close_handler_callable=closed, background=BackgroundTask(background.append, "ran")
    )
    await response(HTTP, connection.receive, send)
    assert calls == []
    assert background == ["ran"]


async def test_an_exception_comes_out_bare_and_without_the_background_task() -> None:
    async def events() -> AsyncIterator[int]:
        yield 1
        raise LookupError("generator")

    ran: list[int] = []
    connection = Connection()
    with pytest.raises(LookupError, match="generator"):
        await connection.run(EventSourceResponse(events(), background=BackgroundTask(ran.append, 1)))
    assert connection.body == b"data: 1\r\n\r\n"
    assert not connection.complete
    assert ran == []


async def test_two_exceptions_come_out_as_a_group() -> None:
    failing = asyncio.Event()

    async def events() -> AsyncIterator[int]:
        try:
            yield 1
            failing.set()
            await asyncio.Event().wait()
        finally:
            raise LookupError("generator")

    async def sender() -> None:
        await failing.wait()
        raise KeyError("sender")

    with pytest.raises(BaseExceptionGroup) as raised:
        await Connection().run(EventSourceResponse(events(), data_sender_callable=sender))
    assert {type(error) for error in raised.value.exceptions} == {LookupError, KeyError}


@pytest.mark.parametrize("item", [{"nonsense": 1}, {"retry": "x"}, "\ud800"])
async def test_an_encoding_error_closes_the_generator(item: Any) -> None:
    source = Endless(item)
    with pytest.raises((TypeError, UnicodeEncodeError)):
        await Connection().run(EventSourceResponse(source.events()))
    assert source.notes == ["cleaned up"]
    assert len(source.tasks) == 1


async def test_a_failed_send_closes_the_generator_and_its_own_trouble_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = []

    async def events() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)
            raise LookupError("in the cleanup")

    async def fail(body: bytes) -> None:
        raise OSError("broken pipe")

    connection = Connection()
    connection.on_body = fail
    with pytest.raises(OSError, match="broken pipe"):
        await connection.run(EventSourceResponse(events()))
    assert closed == [True]
    assert "Error closing body iterator" in caplog.text
    assert "in the cleanup" in caplog.text


async def test_cleanup_has_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    async def events() -> AsyncIterator[Any]:
        try:
            yield {"nonsense": 1}
        finally:
            await asyncio.Event().wait()

    with pytest.raises(TypeError):
        await Connection().run(EventSourceResponse(events(), cleanup_timeout=0.01))
    assert "cleanup cancelled after 0.01 seconds" in caplog.text


async def test_a_generator_that_ignores_its_cancellation_is_cancelled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancelled = 0

    async def events() -> AsyncIterator[int]:
        nonlocal cancelled
        yield 1
        while cancelled < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    connection = Connection()
    task = connection.start(EventSourceResponse(events(), cleanup_timeout=0))
    await connection.until(b"data: 1")
    connection.left.set()
    await done(task)
    assert cancelled == 2
    assert "took no notice of being cancelled" in caplog.text


async def test_what_a_cancelled_generator_still_yields_is_not_sent() -> None:
    async def events() -> AsyncIterator[str]:
        yield "before"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "after"

    connection = Connection()
    task = connection.start(EventSourceResponse(events()))
    await connection.until(b"before")
    connection.left.set()
    await done(task)
    assert b"after" not in connection.body


async def test_send_timeout_of_an_event() -> None:
    source = Endless()
    connection = Connection()
    connection.on_body = lambda body: asyncio.Event().wait()  # type: ignore[assignment,return-value]
    with pytest.raises(SendTimeoutError):
        await connection.run(EventSourceResponse(source.events(), send_timeout=0.01, ping=0))
    assert source.notes == ["cleaned up"]


async def test_a_timeout_inside_send_is_not_the_send_timeout() -> None:
    async def fail(body: bytes) -> None:
        raise TimeoutError("the server's own")

    connection = Connection()
    connection.on_body = fail
    with pytest.raises(TimeoutError, match="the server's own") as raised:
        await connection.run(EventSourceResponse(three(), send_timeout=5))
    assert not isinstance(raised.value, SendTimeoutError)


async def test_data_sender_runs_beside_the_stream_and_is_cancelled_with_it() -> None:
    notes = []
    send, receive = anyio.create_memory_object_stream[int](10)

    async def sender() -> None:
        async with send:
            for number in range(3):
                await send.send(number)
        notes.append("returned")

    connection = Connection()
    async with receive:
        await connection.run(EventSourceResponse(receive, data_sender_callable=sender, sep="\n"))
    assert connection.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert notes == ["returned"]

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("cancelled")

    await Connection().run(EventSourceResponse(three(), data_sender_callable=endless))
    assert notes == ["returned", "cancelled"]


async def test_an_error_of_the_data_sender_ends_the_stream() -> None:
    source = Endless()

    async def sender() -> None:
        raise LookupError("sender")

    with pytest.raises(LookupError, match="sender"):
        await Connection().run(EventSourceResponse(source.events(), data_sender_callable=sender))


async def test_when_the_request_is_cancelled() -> None:
    source = Endless()
    ran: list[int] = []
    connection = Connection()
    task = connection.start(EventSourceResponse(source.events(), background=BackgroundTask(ran.append, 1)))
    await connection.until(b"hello")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done(task)
    assert source.notes == ["cancelled", "cleaned up"]
    assert ran == []


async def test_when_a_scope_of_anyio_around_the_request_is_cancelled() -> None:
    source = Endless()
    connection = Connection()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(
                EventSourceResponse(source.events()), connection.scope, connection.receive, connection.send
            )
            await connection.until(b"hello")
            scope.cancel()
    assert source.notes == ["cancelled", "cleaned up"]


async def test_head_has_headers_only() -> None:
    source = Endless()
    ran: list[str] = []
    connection = Connection({**HTTP, "method": "HEAD"})

    async def sender() -> None:
        ran.append("sender")

    await connection.run(
        EventSourceResponse(
            source.events(), data_sender_callable=sender, background=BackgroundTask(ran.append, "background")
        )
    )
    assert [message["type"] for message in connection.sent] == ["http.response.start", "http.response.body"]
    assert connection.sent[1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert ran == ["background"]
    assert source.tasks == set()


async def test_a_websocket_is_denied_with_the_stream() -> None:
    connection = Connection({"type": "websocket", "headers": [], "path": "/"})
    await connection.run(EventSourceResponse(three()))
    assert {message["type"] for message in connection.sent} == {
        "websocket.http.response.start",
        "websocket.http.response.body",
    }
