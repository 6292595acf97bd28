"""Presence over all processes, and reaching any client from any process."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from redis_server import Proxy, RedisServer
from redis_workers import Pair, Worker, app_command, listening, presence_of
from servers import run, stopped
from sse_hub import BrokerError, Hub, RedisBroker
from waiting import eventually, promised, until, until_async


async def test_presence_says_when_it_cannot_be_known(redis: RedisServer) -> None:
    async with Hub(RedisBroker(redis.url, timeout=0.5)) as hub:
        # The first use begins to connect; on a busy machine its time is over before that is done.
        with suppress(BrokerError):
            await hub.presence()
        await until_async(lambda: hub.stats()["broker"] == "connected")
        redis.pause()
        began = time.monotonic()
        with pytest.raises(BrokerError):
            await hub.presence()
        assert time.monotonic() - began < promised(2)
        redis.resume()
        began = time.monotonic()
        while True:
            try:
                await hub.presence()
                break
            except BrokerError:
                assert time.monotonic() - began < promised(3)


@pytest.mark.parametrize("lost", ["everything", "what expired"])
@pytest.mark.parametrize("newcomer", [False, True])
def test_presence_is_known_again_after_it_was_lost_under_a_connection_that_stays(
    redis: RedisServer, pair: Pair, lost: str, newcomer: bool
) -> None:
    a, b = pair.hubs(redis.url)
    with listening(a.listen("x"), b.listen("x"), b.listen("x,y")) as (one, two, three):
        eventually(lambda: a.presence("x"), presence_of(one, two, three))
        if lost == "everything":
            redis.admin.flushall()
        else:
            # As with a worker that stood still for longer than it is believed to be there.
            redis.admin.delete(*redis.admin.keys("*:presence:*"), *redis.admin.keys("*:workers"))
        with listening(*([b.listen("x")] if newcomer else [])) as more:
            eventually(lambda: a.presence("x"), presence_of(one, two, three, *more))
            eventually(lambda: a.presence("y"), presence_of(three))
        eventually(lambda: a.presence(), presence_of(one, two, three))


def test_a_worker_that_stood_still_is_there_again(redis: RedisServer, pair: Pair) -> None:
    a = pair.workers[0].hub(redis.url, pair.name)
    with run(app_command()) as process:
        frozen = Worker(process)
        b = frozen.hub(redis.url, pair.name)
        with listening(a.listen("x"), b.listen("x")) as (one, two):
            eventually(lambda: a.presence("x"), presence_of(one, two))
            with stopped(process.process.pid):
                until(lambda: len(redis.admin.keys("*:presence:*")) == 1)
                assert a.presence("x") == presence_of(one)
            eventually(lambda: a.presence("x"), presence_of(one, two))
        frozen.http.close()


def test_presence_is_known_after_redis_came_back_empty_at_once(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.hubs(redis.url)
    with listening(a.listen("x"), b.listen("x")) as (one, two):
        eventually(lambda: a.presence("x"), presence_of(one, two))
        redis.kill()
        redis.restart(empty=True)
        until(lambda: a.state() == b.state() == "connected")
        eventually(lambda: a.presence("x"), presence_of(one, two))


def test_presence_misses_no_client_while_it_is_rewritten(redis: RedisServer, pair: Pair) -> None:
    """A worker whose connections are cut again and again, and one that asks for presence."""
    a = pair.workers[0].hub(redis.url, pair.name)
    with Proxy(redis.port) as proxy:
        b = pair.workers[1].hub(proxy.url, pair.name)
        with listening(*(b.listen(",".join(f"topic {n}" for n in range(3000))) for _ in range(2))) as clients:
            eventually(lambda: a.presence(), presence_of(*clients))
            expected = presence_of(*clients)
            written = redis.admin.info("commandstats")["cmdstat_rename"]["calls"]
            for again in range(5):
                proxy.reset()
                while redis.admin.info("commandstats")["cmdstat_rename"]["calls"] <= written + again:
                    assert a.presence() == expected
                assert a.presence() == expected
            pair.workers[1].hubs.pop(pair.name).close()


def test_the_clients_of_a_worker_that_died_expire(redis: RedisServer, pair: Pair) -> None:
    a = pair.workers[0].hub(redis.url, pair.name)
    with run(app_command()) as process:
        dying = Worker(process)
        b = dying.hub(redis.url, pair.name)
        with listening(a.listen("x"), b.listen("x")) as (one, two):
            eventually(lambda: a.presence("x"), presence_of(one, two))
            process.kill()
            dying.http.close()
            eventually(lambda: a.presence("x"), presence_of(one), promised(17))
            until(lambda: a.presence() == presence_of(one))
    # Nothing of it stays in Redis, but what lives on is still there.
    until(lambda: len(redis.admin.keys("*:presence:*")) <= 1)
    assert a.presence()["count"] <= 1
