"""A real Redis that refuses some commands, or loses entries that are unread; and closing while it hangs."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer
from sse_hub import BrokerError, Hub, RedisBroker, Subscription
from waiting import PATIENCE, until_async

EVENTS = "{sse-hub:default}:events"


def user(redis: RedisServer, *but: str) -> str:
    """The URL for a user who may do everything but these commands."""
    redis.admin.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "&*", "+@all", *but)
    return redis.url.replace("//", "//ann:secret@")


async def until_reset(client: Subscription) -> None:
    async with asyncio.timeout(PATIENCE):
        while b"stream-reset" not in await anext(client):
            pass


async def test_a_user_who_may_not_read_the_stream_does_not_fill_the_log(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hub(user(redis, "-xread"), grace=0.0) as hub:
        with caplog.at_level(logging.WARNING, "sse_hub"):
            await hub.publish("prices", 1)
            async with asyncio.timeout(PATIENCE):
                while not caplog.messages:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(1.0)  # some more attempts
        assert hub.stats()["broker"] == "disconnected"
    (said,) = caplog.messages
    assert "xread" in said
    assert "secret" not in said


async def test_a_user_who_may_not_read_the_past_resets_the_client(redis: RedisServer) -> None:
    async with Hub(user(redis, "-xrange"), grace=0.0) as hub:
        await hub.publish("prices", 1)
        client = hub.subscribe("prices", last_event_id="1-0")
        await until_reset(client)
        assert client.recovered is False
        client.close()


@pytest.mark.parametrize("right", ["-xgroup", "-xsetid"])
async def test_where_a_stream_may_not_be_given_a_beginning_nobody_resumes_from_it(
    redis: RedisServer, right: str
) -> None:
    # A stream opens with its position, unless connecting takes longer than this.
    broker = RedisBroker(user(redis, right), connect_timeout=PATIENCE)
    async with Hub(broker, grace=0.0) as hub, Redis.from_url(redis.url) as admin:
        client = hub.subscribe("prices")
        assert b"id: 0-0\n" in await anext(client)
        client.close()
        for n in range(2):
            await hub.publish("prices", n)
            client = hub.subscribe("prices", last_event_id="0-0")
            await until_reset(client)
            client.close()
            await admin.flushall()


async def test_a_user_who_may_only_read_reads_a_stream_that_does_not_exist_yet(redis: RedisServer) -> None:
    url = user(redis, "-eval", "-evalsha", "-@write", "+xread")
    async with Hub(url, grace=0.0) as hub, Hub(redis.url) as other:
        client = hub.subscribe("prices")
        assert b"stream-open" in await anext(client)
        await until_async(lambda: hub.stats()["broker"] == "connected")
        await other.publish("prices", "through")
        async with asyncio.timeout(PATIENCE):
            while b"through" not in await anext(client):
                pass
        client.close()


async def test_an_event_that_could_not_be_trimmed_by_age_is_published(redis: RedisServer) -> None:
    async with Hub(user(redis, "-xtrim"), history_age=60.0) as hub:
        assert await hub.publish("prices", 1) is not None


async def test_a_gap_is_announced_though_nothing_follows_it(redis: RedisServer) -> None:
    async with Hub(redis.url, grace=0.0) as hub, Redis.from_url(redis.url) as admin:
        await hub.publish("prices", 1)
        client = hub.subscribe("prices")
        await asyncio.wait_for(anext(client), PATIENCE)
        async with admin.pipeline() as both:  # at once, so that no process reads it in between
            both.xadd(EVENTS, {"any": "thing"})
            both.xtrim(EVENTS, maxlen=0, approximate=False)
            await both.execute()
        await until_reset(client)
        client.close()


@pytest.mark.parametrize(
    ("version", "data", "why"),
    [
        ("1", b"data: \xff\n\n", "cannot be read: it is damaged, or no hub wrote it"),
        ("1", b"id: 9-9\ndata: x\n\n", "cannot be read: it is damaged, or no hub wrote it"),
        ("2", b"data: x\n\n", "another version of sse-hub wrote entry"),
    ],
)
async def test_an_entry_that_no_hub_of_this_version_wrote_is_a_gap_and_is_not_delivered(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, version: str, data: bytes, why: str
) -> None:
    async with Hub(redis.url, grace=0.0) as hub:
        before = await hub.publish("prices", 1)
        client = hub.subscribe("prices")
        received = await anext(client)
        assert before is not None
        redis.admin.xadd(EVENTS, {"v": version, "p": before, "k": "a", "d": data})
        async with asyncio.timeout(PATIENCE):
            while b"stream-reset" not in received:
                received += await anext(client)
        assert data[:-2] not in received
        client.close()
        await until_async(lambda: why in caplog.text)


async def test_a_close_that_is_cancelled_leaves_a_hub_that_can_be_used(redis: RedisServer) -> None:
    broker = RedisBroker(redis.url, timeout=PATIENCE)
    hub = Hub(broker, grace=0.0)
    await hub.publish("prices", 1)
    redis.pause()
    late = hub.publish("prices", 2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hub.aclose(), 0.1)
    assert not late.done(), "it waited until Redis went on"
    redis.resume()
    assert await late is not None, "it was on its way"
    assert await hub.publish("prices", 3) is not None
    await hub.aclose()


async def test_the_outcome_is_not_late_when_many_clients_wait_for_redis() -> None:
    # Nobody answers at this port: an attempt to connect takes all of its time.
    silent = socket.create_server(("127.0.0.1", 0), backlog=512)
    port = silent.getsockname()[1]
    broker = RedisBroker(f"redis://127.0.0.1:{port}", timeout=0.5, connect_timeout=0.2)
    async with Hub(broker, grace=0.0) as hub:
        clients = [hub.subscribe("prices", last_event_id=f"{n}-0") for n in range(1, 100)]
        waiting = [asyncio.ensure_future(hub.presence()) for _ in range(50)]
        before = time.monotonic()
        with pytest.raises(BrokerError):
            await hub.publish("prices", 1)
        assert time.monotonic() - before < 15, "150 attempts in a row take 30 seconds"
        await asyncio.gather(*waiting, return_exceptions=True)
        for client in clients:
            client.close()
    silent.close()


async def test_what_redis_refuses_is_refused_for_each(redis: RedisServer) -> None:
    async with Hub(redis.url, grace=0.0) as hub:
        client = hub.subscribe("prices")
        first = await hub.publish("prices", 1)
        redis.admin.config_set("maxmemory", "1")
        publications = [hub.publish("prices", number) for number in range(3)]
        for publication in publications:
            with pytest.raises(BrokerError, match=r"OOM.*memory"):
                await publication
        redis.admin.config_set("maxmemory", "0")
        ids = [first, await hub.publish("prices", 2)]
        assert redis.ids() == ids
        async with asyncio.timeout(PATIENCE):
            while b"data: 2\n" not in await anext(client):
                pass
