"""What clients see when Redis lost or trimmed events: a ``stream-reset``, and never a silent gap."""

from __future__ import annotations

import time

import pytest
from redis_outage import RECOVERY, are, publisher, reset_once_and_on, scene, served_again
from redis_server import Proxy, RedisServer, stream_key
from redis_workers import Pair, listening, takes
from waiting import PATIENCE, promised


@pytest.mark.parametrize("clock", ["goes on", "was set back"])
def test_redis_comes_back_empty(redis: RedisServer, pair: Pair, clock: str) -> None:
    if clock == "was set back":
        redis.clock_ahead(pair.name)
    with scene(pair, redis.url) as (hubs, clients):
        redis.kill()
        are(hubs, "disconnected")
        redis.restart(empty=True)
        back = time.monotonic()
        for client in clients:
            client.until_reset()
        assert time.monotonic() - back < promised(RECOVERY)
        served_again(back, hubs, hubs[1].outcomes)
        hubs[0].publish("and on")
        for client in clients:
            client.until("and on")
            assert client.last_event_id == redis.ids(pair.name)[-1]
            assert client.resets == []
        # From here on clients resume as ever.
        (last,) = hubs[1].publish("once more")
        takes(clients, ["once more"])
        with listening(hubs[0].listen(last_event_id=redis.ids(pair.name)[0])) as (client,):
            client.until("once more")
            assert client.last_event_id == last
            assert client.resets == []


def test_trimmed_while_away(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    with scene(pair, proxy.url) as (hubs, clients), publisher(redis, pair) as elsewhere:
        proxy.cut()
        ids = [elsewhere.publish("t", n).result(PATIENCE) for n in range(20)]
        redis.admin.xtrim(stream_key(pair.name), maxlen=5, approximate=False)
        are(hubs, "disconnected")
        proxy.restore()
        for client in clients:
            client.until_reset()
            # They receive what is left, in order, and each event once.
            rest = [*range(20)]
            seen = client.until(19)
            assert seen == rest[-len(seen) :]
            assert client.last_event_id == ids[-1]
        hubs[0].publish("and on")
        takes(clients, ["and on"])
        for client in clients:
            assert client.resets == []


def test_a_failover_to_a_replica_that_was_behind(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    """The old primary had events that the new one never saw: no client may take the stream for complete."""
    with RedisServer() as late, scene(pair, proxy.url) as (hubs, clients):
        key = stream_key(pair.name)
        hubs[0].publish("seen by all", "seen by the old primary only")
        takes(clients, ["seen by all", "seen by the old primary only"])
        for id, fields in redis.admin.xrange(key)[:2]:
            late.admin.xadd(key, fields, id=id)
        with publisher(late, pair) as elsewhere:
            proxy.cut()
            are(hubs, "disconnected")
            elsewhere.publish("t", "on the new primary").result(PATIENCE)
            proxy.target = late.port
            proxy.restore()
            for client in clients:
                client.until_reset()
            elsewhere.publish("t", "and on").result(PATIENCE)
            for client in clients:
                client.until("and on")
                assert client.resets == []


def test_a_failover_that_lost_the_newest_event(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    with RedisServer() as late, scene(pair, proxy.url) as (hubs, clients):
        key = stream_key(pair.name)
        *_, lost = hubs[0].publish("kept", "kept too", "lost")
        takes(clients, ["kept", "kept too", "lost"])
        for id, fields in redis.admin.xrange(key)[:-1]:
            late.admin.xadd(key, fields, id=id)
        proxy.cut()
        are(hubs, "disconnected")
        proxy.target = late.port
        proxy.restore()
        reset_once_and_on(late, pair, hubs, clients, lost)


def test_a_failover_to_a_server_whose_clock_is_behind(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    """What is new there has ids before that of what was lost."""
    with RedisServer() as late, scene(pair, proxy.url) as (hubs, clients):
        key = stream_key(pair.name)
        hubs[0].publish("kept")
        takes(clients, ["kept"])
        for id, fields in redis.admin.xrange(key):
            late.admin.xadd(key, fields, id=id)
        # The old primary's clock is an hour ahead from here on.
        redis.admin.execute_command("XSETID", key, f"{int((time.time() + 3600) * 1000)}-0")
        with publisher(redis, pair) as elsewhere:
            elsewhere.publish("t", "lost").result(PATIENCE)
        for client in clients:
            client.until_reset()  # as the stream goes on behind an id that no entry has
        takes(clients, ["lost"])
        proxy.cut()
        are(hubs, "disconnected")
        with publisher(late, pair) as elsewhere:
            elsewhere.publish("t", "on the new primary").result(PATIENCE)
        proxy.target = late.port
        proxy.restore()
        for client in clients:
            client.until_reset()
        takes(clients, ["on the new primary"])
        for client in clients:
            assert client.resets == []
