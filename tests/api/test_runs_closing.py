"""Runs whose hub closes, whose loop ends, or whose watchers and holders go away."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from run_sources import Gate, end, one, transcript
from sse_hub import Hub, Run, RunState
from waiting import PATIENCE, promised, until_async


async def test_a_hub_that_closes_stops_its_runs_and_tells_their_watchers() -> None:
    hub = Hub()
    gate = Gate()
    run = await hub.run("r", gate.source, 1)
    watcher = asyncio.create_task(transcript(hub, "r"))
    while not hub.count("r"):  # noqa: ASYNC110
        await asyncio.sleep(0)
    await hub.aclose()
    assert gate.closed.is_set()
    assert run.state is RunState.STOPPED
    assert await watcher == ["1", end("stopped")]
    assert await (await hub.run("r", one)).wait() is RunState.DONE, "the next use starts anew"
    await hub.aclose()


async def test_a_hub_that_closes_waits_for_on_finish() -> None:
    hub = Hub(grace=PATIENCE)
    saved: list[str] = []

    async def save(run: Run, events: list[int]) -> None:
        await asyncio.sleep(0.05)  # a database
        await hub.publish("saved", events)  # the hub still works
        saved.append(f"{run.id} {run.state}")

    await (await hub.run("ended", one, keep=0, on_finish=save)).wait()
    await hub.run("stopped", Gate().source, 1, on_finish=save)
    await hub.aclose()
    assert saved == ["ended done", "stopped stopped"]
    await hub.run("again", Gate().source, on_finish=save)
    await asyncio.to_thread(hub.close)
    assert saved[2:] == ["again stopped"]


async def test_a_hub_that_closes_waits_for_no_on_finish_for_ever() -> None:
    hub = Hub(grace=0.1)
    begun = asyncio.Event()

    async def save(run: Run, events: list[int]) -> None:
        begun.set()
        await asyncio.Event().wait()

    await hub.run("r", Gate().source, on_finish=save)
    await asyncio.wait_for(hub.aclose(), PATIENCE)
    assert begun.is_set()


async def test_an_on_finish_that_closes_the_hub_does_not_wait_for_itself() -> None:
    hub = Hub(grace=10 * PATIENCE)
    closed = asyncio.Event()

    async def close(run: Run, events: list[int]) -> None:
        await hub.aclose()
        closed.set()

    await hub.run("r", one, on_finish=close)
    await asyncio.wait_for(closed.wait(), PATIENCE)


async def test_close_stops_runs_of_other_loops_and_of_its_own() -> None:
    hub = Hub()
    gates = [Gate(), Gate()]
    own = await hub.run("own", gates[0].source)
    started, ended = threading.Event(), []

    def other() -> None:
        async def main() -> None:
            run = await hub.run("other", gates[1].source)
            started.set()
            ended.append(await run.wait())

        asyncio.run(main())

    thread = threading.Thread(target=other)
    thread.start()
    await asyncio.to_thread(started.wait, PATIENCE)
    await asyncio.to_thread(hub.close)
    thread.join(PATIENCE)
    assert ended == [RunState.STOPPED]
    assert await own.wait() is RunState.STOPPED
    gate = Gate()
    run = await hub.run("own", gate.source, 1)
    await until_async(lambda: gate.calls == 1)
    hub.close()  # on its own loop, which the call blocks
    assert run.state is RunState.STOPPED
    await asyncio.wait_for(gate.closed.wait(), PATIENCE)


async def deaf() -> AsyncIterator[int]:
    yield 1
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def blocked() -> Iterator[int]:
    yield 1
    threading.Event().wait()


@pytest.mark.parametrize("source", [deaf, blocked])
def test_a_function_that_does_not_return_holds_neither_its_hub_up_nor_its_loop(source: Any) -> None:
    got, took = [], []

    async def main() -> None:
        hub = Hub(grace=0.4)
        await hub.run("r", source)
        watcher = asyncio.create_task(transcript(hub, "r"))
        await until_async(lambda: hub.count("r") == hub.stats()["published"] == 1)
        began = time.monotonic()
        await hub.aclose()
        took.append(time.monotonic() - began)
        got.extend(await watcher)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the loop ends, too"
    assert got == ["1", end("stopped")]
    assert took[0] < promised(0.5)


async def test_another_loop_may_wait_and_stop() -> None:
    async with Hub() as hub:
        run = await hub.run("r", Gate().source)
        assert await asyncio.to_thread(lambda: asyncio.run(run.stop())) is True
        assert await asyncio.to_thread(lambda: asyncio.run(run.wait())) is RunState.STOPPED


async def test_a_run_of_a_loop_that_ends_is_stopped() -> None:
    hub = Hub()
    closed = threading.Event()

    async def source() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(PATIENCE)
        finally:
            closed.set()

    def other() -> Run:
        async def main() -> Run:
            run = await hub.run("r", source)
            await asyncio.sleep(0)
            return run

        return asyncio.run(main())

    run = await asyncio.to_thread(other)
    assert closed.is_set()
    assert run.state is RunState.STOPPED
    assert await transcript(hub, "r") == ["1", end("stopped")]
    await hub.aclose()


async def test_cancelled_waiting_stops_nothing() -> None:
    async with Hub() as hub:
        gate = Gate()
        run = await hub.run("r", gate.source)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.wait(), 0.01)
        gate.steps.put_nowait(None)
        assert await run.wait() is RunState.DONE


async def test_the_hub_holds_its_runs() -> None:
    async with Hub() as hub:
        gate = Gate()
        await hub.run("r", gate.source, 1)
        gc.collect()
        gate.steps.put_nowait(None)
        assert await transcript(hub, "r") == ["1", end("done")]
