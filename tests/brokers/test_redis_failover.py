"""What Redis may lose although it had acknowledged it (failovers, restarts, evictions): no gap is silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from redis_server import Proxy, RedisServer, stream_key
from redis_workers import Pair, listening
from servers import HOST
from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
from waiting import PATIENCE, until

QUICK = ("--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0")


@pytest.fixture
def primary() -> Iterator[RedisServer]:
    with RedisServer(*QUICK) as server:
        yield server


@pytest.fixture
def replica(primary: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(*QUICK, "--replicaof", HOST, str(primary.port)) as server:
        until(lambda: server.admin.info("replication")["master_link_status"] == "up")
        yield server


async def names(hub: Hub, last: str, id: str | None = None, begun: asyncio.Event | None = None) -> list[str]:
    """What a client sees up to an event with this data: data, and names of control events."""
    seen: list[str] = []
    async with hub.subscribe("t", last_event_id=id) as stream:
        async for chunk in stream:
            for event in chunk.decode().split("\n\n")[:-1]:
                lines = event.split("\n")
                fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
                if fields.get("id") and begun:
                    begun.set()
                name = fields.get("event", fields.get("data", ""))
                if name and name not in ("stream-open", "stream-cursor"):
                    seen.append(name)
            if last in seen:
                return seen
    return seen


async def published(hub: Hub, data: object) -> str:
    """Publish until it succeeds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(BrokerError):
                return str(await hub.publish("t", data))
            await asyncio.sleep(0.02)


async def publish_unseen(replica: RedisServer, proxy: Proxy, hub: Hub) -> None:
    """The replica stops following, and ``hub`` publishes to the primary, which has no reader left."""
    until(lambda: replica.admin.xlen(stream_key()) == 1)
    proxy.hold_news()
    replica.admin.replicaof("NO", "ONE")
    for n in range(4, 9):
        assert await hub.publish("t", n)


def fail_over(primary: RedisServer, replica: RedisServer, proxy: Proxy) -> None:
    """The replica takes over with what it has."""
    primary.kill()
    proxy.target = replica.port
    proxy.reset()
    proxy.restore()


async def listen(hub: Hub, last: str) -> asyncio.Task[list[str]]:
    """What a client sees up to ``last``; it has begun."""
    begun = asyncio.Event()
    client = asyncio.create_task(names(hub, last, begun=begun))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    return client


async def test_what_a_failover_lost_before_it_was_read_is_announced(
    primary: RedisServer, replica: RedisServer
) -> None:
    """The process holds acknowledged ids that the new primary does not have."""
    with Proxy(primary.port) as proxy:
        async with Hub(RedisBroker(proxy.url, timeout=2.0)) as hub:
            client = await listen(hub, "9")
            await hub.publish("t", 3)
            await publish_unseen(replica, proxy, hub)
            fail_over(primary, replica, proxy)
            await published(hub, 9)
            assert await asyncio.wait_for(client, PATIENCE) == ["3", "stream-reset", "9"]


async def test_a_client_that_read_nothing_of_what_a_failover_lost_is_reset(
    primary: RedisServer, replica: RedisServer
) -> None:
    """Another process published it, and is gone. A client that was away is reset, too."""
    with Proxy(primary.port) as proxy:
        async with Hub(RedisBroker(proxy.url, timeout=2.0)) as hub:
            client = await listen(hub, "9")
            id = str(await hub.publish("t", 3))
            async with Hub(primary.url) as other:
                await publish_unseen(replica, proxy, other)
            fail_over(primary, replica, proxy)
            await published(hub, 9)
            assert await asyncio.wait_for(client, PATIENCE) == ["3", "stream-reset", "9"]
            assert "stream-reset" in await asyncio.wait_for(names(hub, "9", id), PATIENCE)
        async with Hub(replica.url) as new:
            assert "stream-reset" in await asyncio.wait_for(names(new, "9", id), PATIENCE)


async def test_one_failover_resets_a_client_once(primary: RedisServer, replica: RedisServer) -> None:
    """However many processes see it."""
    with Proxy(primary.port) as proxy, contextlib.ExitStack() as stack:
        hubs = [stack.enter_context(Hub(proxy.url)) for _ in range(3)]
        begun = [asyncio.Event() for _ in hubs]
        clients = [
            asyncio.create_task(names(hub, "2", begun=event)) for hub, event in zip(hubs, begun, strict=True)
        ]
        for event in begun:
            await asyncio.wait_for(event.wait(), PATIENCE)
        await hubs[0].publish("t", 1)
        until(lambda: replica.admin.xlen(stream_key()) == 1)
        replica.admin.replicaof("NO", "ONE")
        primary.kill()
        proxy.target = replica.port
        proxy.reset()
        await published(hubs[1], 2)
        for seen in await asyncio.wait_for(asyncio.gather(*clients), PATIENCE):
            assert seen == ["1", "stream-reset", "2"]


async def test_with_replicas_that_have_everything_nobody_is_reset(
    primary: RedisServer, replica: RedisServer
) -> None:
    with Proxy(primary.port) as proxy:
        async with Hub(RedisBroker(proxy.url, timeout=2.0, min_replicas=1)) as hub:
            client = await listen(hub, "2")
            await hub.publish("t", 1)
            assert replica.admin.xlen(stream_key()) == 1, "it has it when the publication is known"
            replica.admin.replicaof("NO", "ONE")
            proxy.target = replica.port
            primary.kill()
            proxy.reset()
            async with asyncio.timeout(PATIENCE):
                while not client.done():
                    with contextlib.suppress(BrokerError):
                        await hub.publish("t", 2)  # there is no replica any more
            assert client.result()[:2] == ["1", "2"]


async def test_too_few_replicas_leave_the_outcome_unknown(primary: RedisServer) -> None:
    async with Hub(RedisBroker(primary.url, timeout=2.0, min_replicas=1)) as hub:
        client = await listen(hub, "1")
        with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
            await hub.publish("t", 1)
        assert await asyncio.wait_for(client, PATIENCE) == ["1"]


@pytest.mark.parametrize("sync", ["always", "everysec"])
async def test_a_restart_resets_unless_everything_is_on_disk_before_the_reply(
    sync: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer("--appendfsync", sync) as redis, Hub(redis.url) as hub:
        client = await listen(hub, "2")
        await hub.publish("t", 1)
        redis.kill()
        redis.restart()
        await published(hub, 2)
        seen = await asyncio.wait_for(client, PATIENCE)
        assert seen == (["1", "2"] if sync == "always" else ["1", "stream-reset", "2"])
    reason = "may be missing, because its server was started again, or another one took over"
    assert (reason in caplog.text) == (sync != "always")
    assert "version" not in caplog.text


async def test_an_evicted_stream_never_gives_an_id_twice() -> None:
    with RedisServer() as redis, Hub(redis.url) as hub:
        # Within each millisecond, many times.
        evicting = await asyncio.create_subprocess_exec(
            *("redis-benchmark", "-s", str(redis.directory / "socket")),
            *("-q", "-c", "2", "-n", "1000000000", "DEL", stream_key()),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            ids = [str(await hub.publish("t", n)) for n in range(2000)]
        finally:
            evicting.kill()
            await evicting.wait()
        assert len({*ids}) == len(ids)


def test_a_server_that_may_evict_the_stream_is_warned_of(pair: Pair) -> None:
    with RedisServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as redis:
        hubs = pair.hubs(redis.url)
        with listening(*(hub.listen() for hub in hubs)):
            until(lambda: pair.output().count("maxmemory-policy noeviction") == 2)
