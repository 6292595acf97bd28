"""What a hub measures of its broker."""

from __future__ import annotations

import asyncio

import pytest
from redis_server import RedisServer
from scraping import scrape, value
from sse_hub import BrokerError, Hub
from sse_hub.metrics import Collector
from sse_hub.testing import connect
from stores import Store
from waiting import PATIENCE, until_async


async def test_what_a_broker_brings_is_measured(store: Store) -> None:
    async with Hub(store.url, name="shop") as hub, Hub(store.url, name="shop") as other:
        collector = Collector(hub)
        async with connect(hub.endpoint("t"), "/") as client:
            hub.publish("t", "of its own process, so it comes after the client")
            await client.next(PATIENCE)
            before = value(scrape(collector), "broker_lag_seconds_count", hub="shop")
            for number in range(3):
                await other.publish("t", number)
            assert [event.json() for event in await client.take(3, PATIENCE)] == [0, 1, 2]
            samples = scrape(collector)
    assert value(samples, "broker_connected", hub="shop") == 1
    assert value(samples, "broker_unsent", hub="shop") == 0
    assert 1 <= value(samples, "broker_lag_seconds_count", hub="shop") - before <= 3
    assert 0 <= value(samples, "broker_lag_seconds_sum", hub="shop") < PATIENCE


async def test_a_broker_that_is_away_is_seen(redis: RedisServer) -> None:
    async with Hub(redis.url) as hub:
        collector = Collector(hub)
        await hub.publish("t", 1)
        redis.kill()
        await until_async(lambda: value(scrape(collector), "broker_connected") == 0)
        waiting = hub.publish("t", 2)
        assert value(scrape(collector), "broker_unsent") == 1
        with pytest.raises(BrokerError):
            async with asyncio.timeout(PATIENCE):
                await waiting
        samples = scrape(collector)
        assert value(samples, "broker_unsent") == 0
        assert value(samples, "publications_failed_total") == 1
