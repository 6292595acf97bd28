"""Runs over Redis: what it refuses, and what a process does not know yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis_server import Proxy, RedisServer, stream_key
from run_sources import Gate
from servers import free_port
from sse_hub import BrokerError, Hub, RunState
from sse_hub.testing import connect
from waiting import PATIENCE, until_async

EVENTS = stream_key()


async def test_a_run_that_has_ended_is_not_stopped_by_a_process_that_has_yet_to_learn_it(
    redis: RedisServer, proxy: Proxy
) -> None:
    gate = Gate()
    async with Hub(redis.url) as hub, Hub(proxy.url) as other:
        run = await hub.run("r", gate.source, 1)
        joined = await other.run("r", gate.source)
        proxy.hold_news()
        gate.steps.put_nowait(None)
        assert await run.wait() is RunState.DONE
        assert joined.state is RunState.RUNNING, "the news is held back"
        assert await joined.stop() is False
        assert await other.stop("r") is False
        proxy.restore()
        assert await asyncio.wait_for(joined.wait(), PATIENCE) is RunState.DONE


async def test_a_run_stops_although_its_process_missed_the_first_question_in_a_gap(
    redis: RedisServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_hub._runs.elsewhere._AGAIN", 0.3)
    gate = Gate()
    async with Hub(proxy.url) as hub, Hub(redis.url) as other:
        run = await hub.run("r", gate.source, 1)
        joined = await other.run("r", gate.source)
        proxy.cut()
        length = redis.admin.xlen(EVENTS)
        stopping = asyncio.create_task(joined.stop())
        await until_async(lambda: redis.admin.xlen(EVENTS) > length)
        await other.publish("else", 1)
        redis.admin.xtrim(EVENTS, maxlen=1, approximate=False)
        proxy.restore()
        assert await asyncio.wait_for(stopping, PATIENCE) is True
        assert await run.wait() is RunState.STOPPED
        assert gate.closed.is_set()


async def test_what_redis_does_not_take_fails_the_run(redis: RedisServer, caplog: Any) -> None:
    from sse_hub import RedisBroker

    go_on = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await go_on.wait()
        for n in range(2, 200):
            yield n

    hub = Hub(RedisBroker(redis.url, timeout=1.0))
    run = await hub.run("r", source)
    await until_async(lambda: hub._is_followed("r") is True)
    redis.admin.client_pause(60_000, all=True)
    go_on.set()
    assert await asyncio.wait_for(run.wait(), PATIENCE) in (RunState.FAILED, RunState.LOST)
    await hub.aclose()


async def test_nothing_begins_before_redis_says_which_runs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_hub._runs.existence._SOON", 0.2)
    begun: list[int] = []

    async def source() -> AsyncIterator[int]:
        begun.append(1)
        yield 1

    async with Hub(f"redis://127.0.0.1:{free_port()}") as hub:
        with pytest.raises(BrokerError, match="does not know whether there is a run 'r'"):
            await hub.run("r", source)
        async with connect(hub.follow("r"), "/") as watcher:
            assert watcher.status_code == 503
    assert begun == []
