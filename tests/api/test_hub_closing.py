"""How long a hub takes to close, on a clock on which its waits take no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from sse_hub import Hub, Run
from waiting import until_async

GRACE = 1.0


class Timer:
    """The clock. A wait for futures that are not done takes all of its time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def sleep_on_loop(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def wait(self, futures: Sequence[Future[Any]], seconds: float) -> None:
        if not all(future.done() for future in futures):
            self.now += seconds

    async def wait_on_loop(self, futures: Sequence[Future[Any]], seconds: float) -> None:
        self.wait(futures, seconds)


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    timer = Timer()
    time = SimpleNamespace(monotonic=timer.monotonic, sleep=timer.sleep)
    on_loop = SimpleNamespace(sleep=timer.sleep_on_loop, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr("sse_hub.hub.time", time)
    monkeypatch.setattr("sse_hub.hub.asyncio", on_loop)
    monkeypatch.setattr("sse_hub._runs.registry.time", time)
    monkeypatch.setattr("sse_hub._runs.registry.wait", timer.wait)
    monkeypatch.setattr("sse_hub._runs.registry._wait", timer.wait_on_loop)
    return timer


class NeverDelivered(Hub):
    """A hub whose broker does not deliver back what was published."""

    def _refuse(self) -> tuple[int, bool]:
        super()._refuse()
        return 0, True


async def close(hub: Hub, *, on_a_loop: bool) -> None:
    if on_a_loop:
        await hub.aclose(GRACE)
    else:
        await asyncio.to_thread(hub.close, GRACE)


@pytest.mark.parametrize("on_a_loop", [True, False])
@pytest.mark.parametrize(
    ("runs", "delivers", "takes"),
    [(False, True, 1.0), (True, True, 1.0), (False, False, 1.25), (True, False, 1.25)],
)
async def test_closing_takes_a_quarter_more_than_the_grace_at_most(
    timer: Timer, *, on_a_loop: bool, runs: bool, delivers: bool, takes: float
) -> None:
    hub = Hub(grace=GRACE) if delivers else NeverDelivered(grace=GRACE)
    unread, released = hub.subscribe("t"), asyncio.Event()

    async def unending() -> AsyncIterator[int]:
        try:
            yield 1
            await released.wait()
        finally:
            await released.wait()

    async def save(run: Run, events: list[int]) -> None:
        await released.wait()

    try:
        if runs:
            run = await hub.run("r", unending, on_finish=save)
            while not run._driver._publisher.events:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await close(hub, on_a_loop=on_a_loop)
        await until_async(lambda: unread.closed)  # its loop has had no time meanwhile
        assert takes * GRACE <= timer.now <= takes * GRACE + 0.1
    finally:
        released.set()
