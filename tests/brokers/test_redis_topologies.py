"""Redis with more than one server: a cluster, and sentinels that choose the primary."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import Proxy, RedisServer, certificates, stream_key
from servers import HOST, free_port
from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
from waiting import PATIENCE, until

import redis

SLOTS = 16384


@pytest.fixture
def cluster() -> Iterator[list[RedisServer]]:
    """Three primaries that share the slots."""
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        nodes = [
            stack.enter_context(RedisServer("--cluster-enabled", "yes", "--cluster-port", str(port)))
            for port in ports
        ]
        for at, node in enumerate(nodes):
            first, last = at * SLOTS // 3, (at + 1) * SLOTS // 3 - 1
            node.admin.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            node.admin.execute_command("CLUSTER MEET", HOST, nodes[0].port, ports[0])
        for node in nodes:
            until(lambda node=node: node.admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield nodes


async def collect(hub: Hub, count: int) -> list[str]:
    """The names of so many events, opening included and positions not; the data of those without."""
    names: list[str] = []
    async with hub.subscribe("t") as stream:
        async for chunk in stream:
            for event in chunk.decode().split("\n\n")[:-1]:
                fields = dict(line.split(": ", 1) for line in event.split("\n") if not line.startswith(":"))
                if (name := fields.get("event", fields["data"])) != "stream-cursor":
                    names.append(name)
            if len(names) >= count:
                break
    return names


async def are_there(hub: Hub, count: int) -> None:
    """Wait until so many are in the topic, in all hubs."""
    async with asyncio.timeout(PATIENCE):
        while (await hub.presence("t")).count < count:  # noqa: ASYNC110  (nobody tells)
            await asyncio.sleep(0.01)


async def test_a_hub_in_a_cluster_is_reached_through_any_node(cluster: list[RedisServer]) -> None:
    hubs = [Hub(node.url) for node in cluster]
    first = [asyncio.create_task(collect(hub, 4)) for hub in hubs]
    await are_there(hubs[0], 3)
    # None of these waits for another.
    ids = await asyncio.gather(*(hub.publish("t", n) for n, hub in enumerate(hubs)))
    got = await asyncio.wait_for(asyncio.gather(*first), PATIENCE)
    order = [str(ids.index(id)) for id in sorted(ids, key=lambda id: tuple(map(int, str(id).split("-"))))]
    for names in got:
        assert [name for name in names if not name.startswith("stream-")] == order
        assert "stream-reset" not in names
    keys = [key for node in cluster for key in node.admin.keys("*")]
    assert stream_key() in keys
    assert len([node for node in cluster if node.admin.dbsize()]) == 1
    for hub in hubs:
        await hub.aclose()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[str, RedisServer, RedisServer]]:
    """The URL of a sentinel that watches a primary and its replica."""
    quick = ("--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0")
    with (
        RedisServer(*quick) as primary,
        RedisServer(*quick, "--replicaof", HOST, str(primary.port)) as replica,
    ):
        until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
        port = free_port()
        watch = tmp_path / "sentinel.conf"
        watch.write_text(
            f"port {port}\nbind {HOST}\ndir {tmp_path}\n"
            f"sentinel monitor main {HOST} {primary.port} 1\n"
            "sentinel down-after-milliseconds main 1500\nsentinel failover-timeout main 3000\n"
        )
        process = subprocess.Popen(
            ["redis-server", str(watch), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            watcher = redis.Redis(HOST, port, decode_responses=True)

            def knows_the_replica() -> bool:
                with contextlib.suppress(redis.exceptions.ConnectionError):
                    return len(watcher.sentinel_slaves("main")) == 1
                return False

            until(knows_the_replica)
            watcher.close()
            yield f"redis+sentinel://{HOST}:{port}/main", primary, replica
        finally:
            process.kill()
            process.wait()


async def test_a_hub_follows_the_primary_that_the_sentinels_name(
    sentinel: tuple[str, RedisServer, RedisServer],
) -> None:
    url, primary, replica = sentinel
    async with Hub(url) as hub:
        collected = asyncio.create_task(collect(hub, 5))
        await are_there(hub, 1)
        before = [await hub.publish("t", n) for n in range(2)]
        until(lambda: replica.admin.xlen(stream_key()) == 2)
        primary.kill()
        after = None
        async with asyncio.timeout(PATIENCE):
            while after is None:
                with contextlib.suppress(BrokerError, OutcomeUnknown):
                    after = await hub.publish("t", "after")
        names = await asyncio.wait_for(collected, PATIENCE)
        # The replica had everything, but no process can know that.
        assert names == ["stream-open", "0", "1", "stream-reset", '"after"']
        ids = [id for id, _ in replica.admin.xrange(stream_key())]
        assert ids[:2] == before
        assert ids[3:] == [after]


async def test_presence_is_written_to_the_server_that_takes_over() -> None:
    with (
        RedisServer() as old,
        RedisServer("--replicaof", HOST, str(old.port)) as new,
        Proxy(old.port) as proxy,
        Hub(proxy.url) as hub,
    ):
        until(lambda: new.admin.info("replication")["master_link_status"] == "up")
        async with hub.subscribe("t"):
            await are_there(hub, 1)
            # The two change places. The stream can be read from either, so nothing calls for new connections.
            new.admin.replicaof("NO", "ONE")
            old.admin.replicaof(HOST, new.port)
            async with hub.subscribe("t"):
                with pytest.raises(BrokerError, match="replica"):
                    await are_there(hub, 3)
                proxy.target = new.port
                async with asyncio.timeout(PATIENCE):
                    while True:
                        with contextlib.suppress(BrokerError):
                            return await are_there(hub, 2)


def run_sentinel(config: Path) -> subprocess.Popen[bytes]:
    command = ["redis-server", str(config), "--sentinel"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def test_sentinels_and_their_servers_speak_tls(tmp_path: Path) -> None:
    certificates(tmp_path)
    port = free_port()
    tls = "".join(
        f"{option} {tmp_path / name}\n"
        for option, name in {
            "tls-cert-file": "server.pem",
            "tls-key-file": "server.key",
            "tls-ca-cert-file": "ca.pem",
        }.items()
    )
    with RedisServer(tls=tmp_path) as redis:
        watch = tmp_path / "sentinel.conf"
        watch.write_text(
            f"port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients no\n{tls}"
            f"bind {HOST}\ndir {tmp_path}\n"
            f"sentinel monitor main {HOST} {redis.port} 1\n"
        )
        process = run_sentinel(watch)
        try:
            url = f"rediss+sentinel://{HOST}:{port}/main"
            async with Hub(RedisBroker(url, ca_certs=tmp_path / "ca.pem", timeout=PATIENCE)) as hub:
                assert await hub.publish("t", 1)
            async with Hub(RedisBroker(url, timeout=1.0)) as hub:
                with pytest.raises(BrokerError, match="certificate"):
                    await hub.publish("t", 2)
        finally:
            process.kill()
            process.wait()
