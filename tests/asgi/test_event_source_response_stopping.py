"""``EventSourceResponse``: how its streams end when the server stops, on a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from scripted import HTTP, Connection, Endless, done, three
from sse_hub import EventSourceResponse
from sse_hub.sse import AppStatus
from starlette.background import BackgroundTask
from starlette.types import Message
from waiting import PATIENCE


@pytest.fixture(autouse=True)
def _fresh_app_status() -> Iterator[None]:
    yield
    AppStatus.should_exit = False
    AppStatus.enable_automatic_graceful_drain = True
    AppStatus.original_handler = None


async def test_should_exit_ends_streams_at_once_and_is_not_latched() -> None:
    source = Endless()
    ran: list[int] = []
    connection = Connection()
    task = connection.start(EventSourceResponse(source.events(), background=BackgroundTask(ran.append, 1)))
    await connection.until(b"hello")
    AppStatus.should_exit = True
    await done(task)
    assert source.notes == ["cancelled", "cleaned up"]
    assert connection.complete
    assert ran == [1]
    # One that begins now ends at once, too.
    late = Connection()
    await late.run(EventSourceResponse(Endless().events()))
    assert [message["type"] for message in late.sent] == ["http.response.start", "http.response.body"]
    AppStatus.should_exit = False
    after = Connection()
    await after.run(EventSourceResponse(three(), sep="\n"))
    assert after.body.count(b"data") == 3


async def test_should_exit_may_be_set_in_another_thread() -> None:
    source = Endless()
    connection = Connection()
    task = connection.start(EventSourceResponse(source.events()))
    await connection.until(b"hello")
    await asyncio.to_thread(setattr, AppStatus, "should_exit", True)
    await done(task)
    assert source.notes == ["cancelled", "cleaned up"]


async def test_shutdown_event_and_a_farewell_within_the_grace_period() -> None:
    goodbye = anyio.Event()

    async def events() -> AsyncIterator[str]:
        yield "hello"
        await goodbye.wait()
        yield "farewell"

    connection = Connection()
    task = connection.start(
        EventSourceResponse(events(), shutdown_event=goodbye, shutdown_grace_period=10, sep="\n")
    )
    await connection.until(b"hello")
    AppStatus.should_exit = True
    await done(task)
    assert connection.body == b"data: hello\n\ndata: farewell\n\n"
    assert connection.complete


async def test_after_the_grace_period_the_generator_is_cancelled() -> None:
    goodbye = anyio.Event()
    source = Endless()
    connection = Connection()
    task = connection.start(
        EventSourceResponse(source.events(), shutdown_event=goodbye, shutdown_grace_period=0.02)
    )
    await connection.until(b"hello")
    AppStatus.should_exit = True
    async with asyncio.timeout(PATIENCE):
        await goodbye.wait()
    await done(task)
    assert source.notes == ["cancelled", "cleaned up"]
    assert connection.complete


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    source = Endless()
    connection = Connection()
    stuck = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            stuck.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(EventSourceResponse(source.events())(HTTP, connection.receive, send))
    async with asyncio.timeout(PATIENCE):
        await stuck.wait()
    AppStatus.should_exit = True
    await done(task)
    assert source.notes == ["cleaned up"]


async def test_handle_exit_calls_the_original_handler() -> None:
    calls: list[Any] = []
    AppStatus.original_handler = lambda *args: calls.append(args)
    AppStatus.disable_automatic_graceful_drain()
    AppStatus.handle_exit(15, None)
    assert not AppStatus.should_exit
    AppStatus.enable_automatic_graceful_drain_mode()
    AppStatus.handle_exit(15, None)
    assert AppStatus.should_exit
    assert calls == [(15, None), (15, None)]


async def test_monkeypatching_should_exit_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(AppStatus, "should_exit", True)
        assert AppStatus.should_exit
    assert AppStatus.should_exit is False
