"""``def`` generators run and end in worker threads, also when their client leaves or their server stops."""

from __future__ import annotations

import asyncio
import gc
import queue
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from scripted import Connection, done
from servers import Client, Command, ServerProcess, granian, hypercorn, run, uvicorn
from sse_hub import EventSourceResponse
from waiting import PATIENCE, promised, until_async

APP = "leaving_app:app"
SERVERS: dict[str, Callable[[], Command]] = {
    "uvicorn": lambda: uvicorn(APP),
    "hypercorn": lambda: hypercorn(APP),
    "granian": lambda: granian(APP),
}


def stop(server: ServerProcess, how: str) -> None:
    if how == "interrupt":
        server.interrupt()
    else:
        server.terminate()


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_stop_runs_finally_and_no_blocked_step_keeps_the_process(name: str, how: str) -> None:
    with run(SERVERS[name]()) as server:
        paths = ["/sync", "/sync/blocked", "/middleware/sync", "/middleware/sync/blocked"]
        clients = [Client(server.port, path) for path in paths]
        for client in clients:
            client.read_until(b"tick")
        began = time.monotonic()
        stop(server, how)
        server.wait()
        assert time.monotonic() - began < promised(5)
        assert len(re.findall("finally: sync in a worker", server.output)) == 2
        for client in clients:
            client.close()


def test_a_slow_finally_holds_up_nobody() -> None:
    with run(uvicorn(APP)) as server:
        with Client(server.port, f"/sync?seconds={PATIENCE}") as client:
            client.read_until(b"tick")
        server.wait_for("finally begins")
        with Client(server.port, "/state", headers="Connection: close\r\n") as other:
            assert b'"finished":[]' in other.read_to_end()


class Steps:
    """A ``def`` generator that says in which thread it runs, and waits where the test wants it."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.waiting = threading.Event()
        self.go_on = threading.Event()
        self.finished = threading.Event()

    def events(self, *, wait: bool) -> Iterator[str]:
        try:
            while True:
                self.threads.append(threading.current_thread())
                yield "tick"
                if wait:
                    self.waiting.set()
                    assert self.go_on.wait(PATIENCE)
                else:
                    time.sleep(0.01)
        finally:
            self.threads.append(threading.current_thread())
            self.finished.set()


async def test_finally_has_run_when_the_response_returns() -> None:
    steps = Steps()
    connection = Connection()
    task = connection.start(EventSourceResponse(steps.events(wait=False)))
    await connection.until(b"tick")
    connection.left.set()
    await done(task)
    assert steps.finished.is_set()
    assert threading.main_thread() not in steps.threads


async def test_a_step_under_way_is_not_waited_for_and_ends_with_finally() -> None:
    steps = Steps()
    connection = Connection()
    task = connection.start(EventSourceResponse(steps.events(wait=True)))
    await asyncio.to_thread(steps.waiting.wait, PATIENCE)
    connection.left.set()
    await done(task)
    assert not steps.finished.is_set()
    steps.go_on.set()
    assert await asyncio.to_thread(steps.finished.wait, PATIENCE)
    assert threading.main_thread() not in steps.threads


async def test_a_slow_client_that_leaves_finds_the_generator_suspended() -> None:
    steps = Steps()
    connection = Connection()

    async def never(chunk: bytes) -> None:
        await asyncio.Event().wait()

    connection.on_body = never
    task = connection.start(EventSourceResponse(steps.events(wait=False)))
    await until_async(lambda: len(steps.threads) == 1)
    connection.left.set()
    await done(task)
    assert steps.finished.is_set()
    assert threading.main_thread() not in steps.threads


@pytest.mark.parametrize("is_suspended", [False, True])
async def test_finally_runs_in_the_context_of_the_request(is_suspended: bool) -> None:
    name = ContextVar("name", default="nothing")
    seen: list[str] = []
    began = asyncio.Event()

    def events(of: str) -> Iterator[str]:
        try:
            while True:
                yield "tick"
                time.sleep(0.01)
        finally:
            seen.append(name.get())
            name.set(f"{of}, left over")

    async def on_body(chunk: bytes) -> None:
        began.set()
        if is_suspended:
            await asyncio.Event().wait()

    # One after the other, in the same thread.
    for request in ("one", "two"):
        name.set(request)
        connection = Connection()
        connection.on_body = on_body
        task = connection.start(EventSourceResponse(events(request)))
        await began.wait()
        began.clear()
        connection.left.set()
        await done(task)
    await until_async(lambda: seen == ["one", "two"])


async def test_a_response_that_is_never_sent_closes_a_generator_that_began_in_a_thread() -> None:
    steps = Steps()
    response: EventSourceResponse | None = EventSourceResponse(steps.events(wait=False))
    assert response is not None
    await anext(aiter(response.body_iterator))
    response = None
    gc.collect()
    assert await asyncio.to_thread(steps.finished.wait, PATIENCE)
    assert threading.main_thread() not in steps.threads


async def test_more_generators_may_block_than_a_thread_pool_has_threads() -> None:
    gates: list[queue.SimpleQueue[str]] = [queue.SimpleQueue() for _ in range(60)]
    connections = [Connection() for _ in gates]

    def events(gate: queue.SimpleQueue[str]) -> Iterator[str]:
        yield gate.get()

    tasks = [
        connection.start(EventSourceResponse(events(gate)))
        for connection, gate in zip(connections, gates, strict=True)
    ]
    await asyncio.sleep(0)
    for gate in reversed(gates):
        gate.put("open")
    for task in tasks:
        await done(task)
    assert all(b"data: open" in connection.body for connection in connections)


async def test_what_a_generator_raises_comes_out_of_the_response() -> None:
    def events() -> Iterator[str]:
        yield "tick"
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        await Connection().run(EventSourceResponse(events()))


async def test_a_finally_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def events() -> Iterator[str]:
        try:
            while True:
                yield "tick"
                time.sleep(0.01)
        finally:
            raise ValueError("failed")

    connection = Connection()
    task = connection.start(EventSourceResponse(events()))
    await connection.until(b"tick")
    connection.left.set()
    await done(task)
    assert "Error closing content" in caplog.text


class Closable:
    """An async iterator that is no generator and has to be closed, as anyio's streams are."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if not self.count:
            raise StopAsyncIteration
        self.count -= 1
        await asyncio.sleep(0.001)
        return "tick"

    async def aclose(self) -> None:
        self.closed += 1


async def test_an_async_iterator_is_closed_when_its_client_leaves() -> None:
    content = Closable(10**9)
    connection = Connection()
    task = connection.start(EventSourceResponse(content))
    await connection.until(b"tick")
    connection.left.set()
    await done(task)
    assert content.closed == 1


async def test_so_is_the_receiving_end_of_a_memory_stream() -> None:
    sender, receiver = anyio.create_memory_object_stream[str](1)
    async with sender:
        await sender.send("tick")
        connection = Connection()
        task = connection.start(EventSourceResponse(receiver))
        await connection.until(b"tick")
        connection.left.set()
        await done(task)
        with pytest.raises(anyio.BrokenResourceError):
            await sender.send("nobody reads")


async def test_one_that_came_to_its_end_is_not_closed() -> None:
    content: Any = Closable(2)
    await Connection().run(EventSourceResponse(content))
    assert content.closed == 0
