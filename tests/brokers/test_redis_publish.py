"""Publishing through Redis: one hub over several processes, one order, and what a Publication reports."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from redis_server import RedisServer, stream_key
from sse_hub import (
    BrokerError,
    Hub,
    OutcomeUnknown,
    RedisBroker,
)
from waiting import until, until_async


def test_a_hub_of_redis_starts_nothing_before_it_is_used(redis: RedisServer) -> None:
    Hub(redis.url)
    hub = Hub("redis://127.0.0.1:1/")
    time.sleep(0.05)
    assert redis.clients() == 0
    hub.close()


@pytest.mark.parametrize("first_dropped", [False, True])
async def test_a_failure_is_logged_when_its_awaiting_task_was_cancelled(
    caplog: pytest.LogCaptureFixture, first_dropped: bool
) -> None:
    async def wait(published: list[Any]) -> None:
        await (published.pop() if first_dropped else published[0])

    def told() -> int:
        return sum(" failed: " in message for message in caplog.messages)

    with caplog.at_level(logging.WARNING, "sse_hub"):
        async with Hub(RedisBroker("redis://127.0.0.1:1", timeout=0.5)) as hub:
            published = [hub.publish("t", 1)]
            waiting = asyncio.create_task(wait(published))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until_async(lambda: hub.stats()["publish_failed"] == 1)
            published.clear()
            await until_async(lambda: told() == 1)
            # The failure is raised where it is awaited, and logged nowhere.
            with pytest.raises(BrokerError):
                await wait([hub.publish("t", 2)])
    assert told() == 1


def test_a_failure_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, "sse_hub"),
        Hub(RedisBroker("redis://127.0.0.1:1/", timeout=0.2)) as hub,
    ):
        looked_at = hub.publish("t", 0)
        with pytest.raises(BrokerError) as raised:
            looked_at.result()
        assert not isinstance(raised.value, OutcomeUnknown), "nothing was ever sent"
        hub.publish("t", 1)
        until(lambda: any(" failed: " in message for message in caplog.messages))
    assert sum(" failed: " in message for message in caplog.messages) == 1


def test_the_key_is_one_hash_tag(redis: RedisServer) -> None:
    with Hub(redis.url) as hub:
        hub.publish("t", 1).result()
        assert stream_key() == "{sse-hub:default}:events"
        assert sorted(redis.admin.keys()) == ["{sse-hub:default}:copy", stream_key()]
