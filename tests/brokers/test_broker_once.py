"""Work that one process does for the whole hub, and that another takes over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import IMPORTS
from sse_hub import Hub, HubClosed, LeaseLost
from stores import Store
from waiting import PATIENCE, promised, until_async

TICKER = """
import asyncio, os, sys
from sse_hub import Hub

async def main():
    hub = Hub(os.environ["SSE_HUB_URL"])
    async def tick(publish):
        print("has it", flush=True)
        while True:
            await publish("t", os.getpid())
            await asyncio.sleep(0.02)
    await hub.once("ticker", tick)

asyncio.run(main())
"""


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


async def test_another_takes_over_from_a_process_that_died_or_is_paused(store: Store) -> None:
    env = {**os.environ, "PYTHONPATH": IMPORTS, "SSE_HUB_URL": store.url}
    tickers = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", TICKER], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        async with Hub(store.url) as hub, hub.subscribe("t", control=False) as stream:

            async def owner(other_than: int) -> int:
                async with asyncio.timeout(PATIENCE):
                    async for chunk in stream:
                        for line in chunk.splitlines():
                            if line.startswith(b"data: ") and int(line[6:]) != other_than:
                                return int(line[6:])
                raise AssertionError("the stream ended")

            first = await owner(0)
            began = time.monotonic()
            store.suspend(first)
            second = await owner(first)
            assert time.monotonic() - began < promised(10)
            os.kill(second, signal.SIGKILL)
            began = time.monotonic()
            third = await owner(second)
            assert time.monotonic() - began < promised(10)
            os.kill(first, signal.SIGCONT)
            for _ in range(20):
                assert await owner(0) == third, "the one that was paused publishes nothing"
    finally:
        for ticker in tickers:
            ticker.kill()
            ticker.communicate()


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
