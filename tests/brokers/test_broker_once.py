"""Work that one process does for the whole hub, and that another takes over."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from held import DIRECTORY, paused_where_it_stands_still
from servers import ServerProcess, run, uvicorn
from sse_hub import Hub, HubClosed, LeaseLost, Subscription
from stores import Store
from waiting import promised, until_async


async def test_without_a_broker_it_simply_runs() -> None:
    async with Hub() as hub:

        async def produce(publish: Callable[..., Any]) -> None:
            assert publish("t", 1, event="tick").id is not None

        await hub.once("name", produce)
        assert hub.stats()["published"] == 1

        async def fail(publish: Callable[..., Any]) -> None:
            raise RuntimeError("its own")

        with pytest.raises(RuntimeError, match="its own"):
            await hub.once("name", fail)


async def test_one_produces_and_another_follows_at_once(store: Store) -> None:
    running: list[int] = []

    async with Hub(store.url) as a, Hub(store.url) as b:

        async def produce(number: int, publish: Callable[..., Any]) -> None:
            running.append(number)
            try:
                while True:
                    await publish("t", number)
                    await asyncio.sleep(0.01)
            finally:
                running.remove(number)

        tasks = [
            asyncio.create_task(hub.once("name", lambda publish, n=n: produce(n, publish)))
            for n, hub in enumerate((a, b))
        ]
        for _ in range(2):
            await until_async(lambda: bool(running))
            (first,) = running
            began = time.monotonic()
            tasks[first].cancel()
            if not tasks[1 - first].done():
                await until_async(lambda first=first: running == [1 - first])
                assert time.monotonic() - began < promised(1)
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task


class Ticks:
    """What the servers published, as another process reads it."""

    def __init__(self, stream: Subscription) -> None:
        self.seen: list[Any] = []
        self._reading = asyncio.create_task(self._read(stream))

    async def _read(self, stream: Subscription) -> None:
        async for chunk in stream:
            self.seen += [json.loads(line[6:]) for line in chunk.splitlines() if line.startswith(b"data: ")]

    async def owner_after(self, former: int = 0) -> int:
        """Wait for a tick of another process."""
        await until_async(lambda: bool(self.seen) and self.seen[-1] != former)
        return int(self.seen[-1])

    async def some_more(self) -> None:
        count = len(self.seen) + 20
        await until_async(lambda: len(self.seen) > count)

    def owners(self) -> list[Any]:
        """Who published, one after the other."""
        return [owner for owner, _ in itertools.groupby(self.seen)]


@pytest.fixture
def tickers(store: Store, tmp_path: Path) -> Iterator[dict[int, ServerProcess]]:
    """Three servers, by their process ids."""

    def start() -> ServerProcess:
        command = uvicorn("once_app:app", "--no-access-log")
        command.env |= {"SSE_HUB_URL": store.url, DIRECTORY: str(tmp_path)}
        return stack.enter_context(run(command))

    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        yield {server.process.pid: server for server in pool.map(lambda _: start(), range(3))}


async def test_one_server_produces_and_another_takes_over_whatever_becomes_of_it(
    store: Store, tickers: dict[int, ServerProcess], tmp_path: Path
) -> None:
    async with Hub(store.url) as hub, hub.subscribe("t", control=False) as stream:
        ticks = Ticks(stream)
        first = await ticks.owner_after()
        await ticks.some_more()
        with paused_where_it_stands_still(tickers[first], store, tmp_path):
            began = time.monotonic()
            second = await ticks.owner_after(first)
            assert time.monotonic() - began < promised(10)
        await ticks.some_more()

        began = time.monotonic()
        os.kill(second, signal.SIGKILL)
        third = await ticks.owner_after(second)
        assert time.monotonic() - began < promised(10)
        await ticks.some_more()

        (fourth,) = {*tickers} - {second, third}
        began = time.monotonic()
        tickers[third].terminate()
        assert await ticks.owner_after(third) == fourth
        assert time.monotonic() - began < promised(2)
        await ticks.some_more()
        assert ticks.owners() == [first, second, third, fourth], "each alone; nothing of it when it went on"


async def test_what_is_published_without_the_lease_is_refused(store: Store) -> None:
    async with Hub(store.url) as hub:
        assert await hub._take_lease("once:x", "mine")
        await hub._publish_held("once:x", "mine", "t", 1)
        with pytest.raises(LeaseLost):
            await hub._publish_held("once:x", "not mine", "t", 1)


async def test_what_is_produced_while_the_hub_closes_does_not_open_it_again(tmp_path: Path) -> None:
    hub = Hub(f"file:{tmp_path}/events")
    begun, starts = asyncio.Event(), 0

    async def produce(publish: Callable[..., Any]) -> None:
        nonlocal starts
        starts += 1
        while True:
            await publish("t", 1)
            begun.set()
            await asyncio.sleep(0)

    task = asyncio.create_task(hub.once("name", produce))
    await begun.wait()
    await hub.aclose()
    with pytest.raises(HubClosed):
        await task
    assert (starts, hub.stats()["broker"]) == (1, "disconnected")
