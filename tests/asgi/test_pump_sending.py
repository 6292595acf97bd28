"""A generator's events through ``send``: one message for each wake, and nothing else changes."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from scripted import Connection, done
from sse_hub import EventSourceResponse
from sse_hub.sse import SendTimeoutError
from waiting import PATIENCE


def bodies(connection: Connection) -> list[bytes]:
    return [message["body"] for message in connection.sent[1:]]


def response(content: Any, **options: Any) -> EventSourceResponse:
    return EventSourceResponse(content, ping=0, sep="\n", **options)


async def other_tasks() -> None:
    """Wait for something that others do in the loop's next turn."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(done.set_result, None)
    await done


class Apart(Exception):
    """Two events were written apart: the process stood still for a millisecond between them."""


def together(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Run a test again until its content waits, behind two events, when the second one is written."""

    @functools.wraps(test)
    async def until_it_waits(**arguments: Any) -> None:
        while True:
            try:
                return await test(**arguments)
            except Apart:
                pass

    return until_it_waits


def check_that_it_waits(notes: list[str]) -> None:
    if "waits" not in notes:
        raise Apart


@pytest.mark.parametrize("options", [{}, {"send_timeout": PATIENCE}])
async def test_what_is_ready_goes_out_in_one_message_and_the_first_at_once(options: dict[str, Any]) -> None:
    async def content() -> AsyncIterator[str]:
        for turn in range(3):
            for part in "abcde":
                yield f"{turn}{part}"
            await other_tasks()

    connection = Connection()
    await connection.run(response(content(), **options))
    expected = "".join(f"data: {turn}{part}\n\n" for turn in range(3) for part in "abcde")
    assert connection.body.decode() == expected
    # A machine that stops the process for a millisecond between two events adds a message.
    firsts = [f"data: {turn}a\n\n".encode() for turn in range(3)]
    assert [body for body in bodies(connection) if body in firsts] == firsts
    assert len(bodies(connection)) < 15
    assert connection.complete


async def test_an_event_is_sent_before_the_next_step_begins() -> None:
    connection = Connection()
    seen: list[bytes] = []

    async def content() -> AsyncIterator[str]:
        yield "a"
        seen.append(connection.body)
        await other_tasks()
        yield "b"
        seen.append(connection.body)

    await connection.run(response(content()))
    assert seen == [b"data: a\n\n", b"data: a\n\ndata: b\n\n"]


@pytest.mark.parametrize("waits_for", ["a task", "a future"])
@together
async def test_a_client_that_leaves_during_a_send_cancels_content_where_it_waits(waits_for: str) -> None:
    notes: list[str] = []
    tasks: set[asyncio.Task[Any] | None] = set()
    inner: asyncio.Task[Any] | None = None

    async def content() -> AsyncIterator[str]:
        nonlocal inner
        tasks.add(asyncio.current_task())
        inner = asyncio.create_task(asyncio.sleep(PATIENCE))
        try:
            yield "a"
            yield "b"
            notes.append("waits")
            if waits_for == "a task":
                await inner
            else:
                await asyncio.get_running_loop().create_future()
            yield "not sent"
        except asyncio.CancelledError:
            notes.append("cancelled")
            raise
        finally:
            tasks.add(asyncio.current_task())
            await asyncio.sleep(0)
            notes.append("cleaned up")

    connection = Connection()
    sending = asyncio.Event()

    async def stall(body: bytes) -> None:
        if body == b"data: b\n\n":
            sending.set()
            await asyncio.get_running_loop().create_future()

    connection.on_body = stall
    task = connection.start(response(content()))
    await sending.wait()
    connection.left.set()
    await done(task)
    assert inner is not None
    was_cancelled = inner.cancelled()
    inner.cancel()
    check_that_it_waits(notes)
    assert notes == ["waits", "cancelled", "cleaned up"]
    assert len(tasks) == 1
    assert connection.body == b"data: a\n\n"
    assert was_cancelled == (waits_for == "a task"), "a task that is awaited is cancelled with its waiter"


async def test_content_waits_for_what_it_awaits_while_its_events_are_sent() -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def content() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        yield await ready

    connection = Connection()

    async def slow(body: bytes) -> None:
        if body == b"data: b\n\n":
            ready.set_result("c")  # before the task can wait for it
            await asyncio.sleep(0)

    connection.on_body = slow
    await connection.run(response(content()))
    assert bodies(connection) == [b"data: a\n\n", b"data: b\n\n", b"data: c\n\n", b""]


@pytest.mark.parametrize("cleanup", ["waits", "fails", "yields", "swallows"])
@together
async def test_a_send_that_fails_while_content_waits_cancels_it_and_is_raised(cleanup: str) -> None:
    notes: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
            notes.append("waits")
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            notes.append("cancelled")
            if cleanup == "yields":
                yield "not sent"
            if cleanup != "swallows":
                raise
        finally:
            if cleanup == "fails":
                raise LookupError("in the cleanup")
            await asyncio.sleep(0)
            notes.append("cleaned up")

    async def fail(body: bytes) -> None:
        if body == b"data: b\n\n":
            raise OSError("broken pipe")

    connection = Connection()
    connection.on_body = fail
    with pytest.raises(OSError, match="broken pipe") as raised:
        await connection.run(response(content()))
    check_that_it_waits(notes)
    assert notes == ["waits", "cancelled", *(["cleaned up"] if cleanup != "fails" else [])]
    assert connection.body == b"data: a\n\n"
    if cleanup == "fails":
        assert isinstance(raised.value.__context__, LookupError)


@together
async def test_a_cleanup_that_never_ends_after_a_failed_send_is_cancelled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
            notes.append("waits")
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.get_running_loop().create_future()

    async def fail(body: bytes) -> None:
        if body == b"data: b\n\n":
            raise OSError("broken pipe")

    connection = Connection()
    connection.on_body = fail
    with pytest.raises(OSError, match="broken pipe"):
        await connection.run(response(content(), cleanup_timeout=0))
    check_that_it_waits(notes)
    assert "cancelled again" in caplog.text


async def test_send_timeout_of_events_that_go_out_together() -> None:
    notes: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
            yield "c"
            await asyncio.get_running_loop().create_future()
        finally:
            notes.append("cleaned up")

    async def stall(body: bytes) -> None:
        if body != b"data: a\n\n":
            await asyncio.get_running_loop().create_future()

    connection = Connection()
    connection.on_body = stall
    with pytest.raises(SendTimeoutError):
        await connection.run(response(content(), send_timeout=0.01))
    assert notes == ["cleaned up"]


@pytest.mark.parametrize("item", [{"nonsense": 1}, LookupError("in the content")])
async def test_what_was_ready_before_an_error_is_sent_before_it_is_raised(item: Any) -> None:
    async def content() -> AsyncIterator[Any]:
        yield "a"
        yield "b"
        if isinstance(item, Exception):
            raise item
        yield item

    connection = Connection()
    with pytest.raises((LookupError, TypeError)):
        await connection.run(response(content()))
    assert bodies(connection) == [b"data: a\n\n", b"data: b\n\n"]


async def test_each_message_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"

    with caplog.at_level(logging.DEBUG, "sse_hub.sse"):
        await Connection().run(response(content()))
    assert "chunk: b'data: a\\n\\n'" in caplog.text
