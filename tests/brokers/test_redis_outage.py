"""What clients see while Redis is away, and when it is back.

Connected clients stay and receive heartbeats; afterwards they receive all that is in the stream, in order and
once.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from redis_outage import BROKER, RECOVERY, are, early, first, get_all, publisher, scene, served_again, stay
from redis_server import Proxy, RedisServer, stream_key
from redis_workers import Pair, WorkerHub, takes
from sse_hub import Hub, RedisBroker
from waiting import PATIENCE, eventually, promised, until


def test_redis_is_killed_and_comes_back_with_its_data(redis: RedisServer, pair: Pair) -> None:
    with scene(pair, redis.url) as (hubs, clients):
        (last,) = redis.ids(pair.name)
        redis.kill()
        are(hubs, "disconnected")
        stay(clients)
        for hub in hubs:
            (outcome,) = hub.outcomes("never sent")
            assert "error" in outcome, outcome
        stay(clients)
        redis.restart()
        served_again(time.monotonic(), hubs, hubs[0].outcomes)
        get_all(redis, pair, clients, last)
    assert "never sent" not in str(redis.admin.xrange(stream_key(pair.name)))


def test_redis_stands_still(redis: RedisServer, pair: Pair) -> None:
    with scene(pair, redis.url) as (hubs, clients):
        (last,) = hubs[1].publish("by the other")  # both have a connection that stands still
        takes(clients, ["by the other"])
        redis.pause()
        with ThreadPoolExecutor() as at_once:
            outcomes = [one for (one,) in at_once.map(WorkerHub.outcomes, hubs, "ab")]
        are(hubs, "disconnected")
        assert all("unknown" in outcome for outcome in outcomes), outcomes
        stay(clients)
        redis.resume()
        served_again(time.monotonic(), hubs, hubs[0].outcomes)
        # What was sent before it stood still was done by it since, or not: no attempt is made twice.
        stored = [fields for _, fields in redis.admin.xrange(stream_key(pair.name))]
        assert len({str(fields) for fields in stored}) == len(stored)
        get_all(redis, pair, clients, last)


@pytest.mark.parametrize("way", ["cut", "reset", "black_hole"])
def test_the_network_fails(redis: RedisServer, proxy: Proxy, pair: Pair, way: str) -> None:
    with scene(pair, proxy.url) as (hubs, clients), publisher(redis, pair) as elsewhere:
        (last,) = redis.ids(pair.name)
        getattr(proxy, way)()
        published = [elsewhere.publish("t", n).result(PATIENCE) for n in range(1500)]
        if way != "reset":
            are(hubs, "disconnected")
            stay(clients)
        proxy.restore()
        back = time.monotonic()
        for client in clients:
            assert [client.event().id for _ in published] == published
            assert client.resets == []
        assert time.monotonic() - back < promised(RECOVERY + 1)
        served_again(back, hubs, hubs[0].outcomes)
        get_all(redis, pair, clients, str(published[-1]))
        assert last in redis.ids(pair.name)


def test_a_slow_network_delays_and_nothing_else(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    with scene(pair, proxy.url) as (hubs, clients):
        (last,) = redis.ids(pair.name)
        proxy.delay = 0.05  # of each piece, of which one publication may take several
        for n in range(3):
            assert "id" in hubs[n % 2].outcomes(n)[0]
        get_all(redis, pair, clients, last)
        assert [hub.state() for hub in hubs] == ["connected", "connected"]


def test_every_connection_is_killed(redis: RedisServer, pair: Pair) -> None:
    with scene(pair, redis.url) as (hubs, clients):
        (last,) = redis.ids(pair.name)
        redis.admin.client_kill_filter(_type="normal")
        served_again(time.monotonic(), hubs, hubs[0].outcomes)
        get_all(redis, pair, clients, last)


def test_the_log_tells_of_it(redis: RedisServer, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sse_hub"), Hub(RedisBroker(proxy.url, **BROKER)) as hub:
        first(hub)
        proxy.cut()
        until(lambda: hub.stats()["broker"] == "disconnected")
        time.sleep(1)  # several attempts fail: that is no news
        proxy.restore()
        until(lambda: hub.stats()["broker"] == "connected", promised(RECOVERY))
        until(lambda: any("again" in message or "back" in message for message in caplog.messages))
    told = [
        record for record in caplog.records if record.name == "sse_hub" and record.levelno >= logging.WARNING
    ]
    assert 1 <= len(told) <= 3, [record.getMessage() for record in told]
    assert all(hub.name in record.getMessage() for record in told)


def test_a_server_that_refuses_to_be_followed_is_reported_once(
    redis: RedisServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """As a proxy does that knows no command that waits."""
    with caplog.at_level(logging.WARNING, "sse_hub"), Hub(RedisBroker(proxy.url, **BROKER)) as hub:
        first(hub)
        proxy.refused = b"BLOCK"
        proxy.reset()
        until(lambda: hub.stats()["broker"] == "disconnected")
        accepted = proxy.accepted
        until(lambda: proxy.accepted >= accepted + 8)  # several attempts fail
        assert "again" not in caplog.text
        proxy.restore()
        until(lambda: hub.stats()["broker"] == "connected", promised(RECOVERY))
        until(lambda: "again" in caplog.text)
        assert caplog.text.count("no connection to") == 1


def no_connection(pair: Pair) -> int:
    """How often the workers have said that this hub has none."""
    return sum(pair.name in line and "no connection to" in line for line in pair.output().splitlines())


def test_what_piled_up_is_read_in_pages_that_the_server_has_room_for(pair: Pair) -> None:
    """Redis ends the connection of a client whose reply is larger than it may be."""
    with (
        RedisServer("--client-output-buffer-limit", "normal 1mb 0 0") as redis,
        Proxy(redis.port) as proxy,
        scene(pair, proxy.url) as (hubs, clients),
        publisher(redis, pair) as elsewhere,
    ):
        small = [elsewhere.publish("t", n) for n in range(1000)]
        takes(clients, [*range(1000)])
        for one in small:  # a client may have an event before its publisher has the answer
            one.result(PATIENCE)
        outages = no_connection(pair)
        proxy.cut()
        are(hubs, "disconnected")
        large = [str(elsewhere.publish("t", f"{n} {'x' * 40_000}").result(PATIENCE)) for n in range(60)]
        proxy.restore()
        for client in clients:
            assert [client.event().id for _ in large] == large
            assert client.resets == []
        eventually(lambda: no_connection(pair) - outages, len(hubs))


def test_a_hub_without_a_broker_has_no_state_of_one() -> None:
    assert Hub().stats()["broker"] is None


@pytest.mark.parametrize("way", ["cut", "refuse", "pause"])
def test_an_outage_costs_nothing(redis: RedisServer, proxy: Proxy, pair: Pair, way: str) -> None:
    """No loop that spins: neither processor time nor a storm of connections."""
    url = proxy.url
    with scene(pair, url, heartbeat=5.0) as (hubs, clients):
        if way == "cut":
            proxy.cut()
        elif way == "refuse":
            redis.kill()  # the proxy accepts, and closes at once
        else:
            redis.pause()
            for hub in hubs:
                hub.outcomes("unknown")
        are(hubs, "disconnected")
        processes = [psutil.Process(worker.process.process.pid) for worker in pair.workers]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        accepted, began = proxy.accepted, time.monotonic()
        time.sleep(1)
        spent = [sum(process.cpu_times()[:2]) - was for process, was in zip(processes, before, strict=True)]
        took = time.monotonic() - began
        assert max(spent) < 0.15 * took
        assert proxy.accepted - accepted < 40 * took
        if way == "pause":
            redis.resume()
        elif way == "refuse":
            redis.restart()
        proxy.restore()
        served_again(time.monotonic(), hubs, hubs[0].outcomes)
        for client in clients:
            assert client.event()


def test_a_client_that_comes_during_an_outage_misses_nothing_after_it(
    redis: RedisServer, proxy: Proxy, pair: Pair
) -> None:
    with scene(pair, proxy.url) as (hubs, _), publisher(redis, pair) as elsewhere:
        (last,) = redis.ids(pair.name)
        proxy.cut()
        are(hubs, "disconnected")
        newcomers = [hub.listen() for hub in hubs]
        resuming = [hub.listen(last_event_id=last) for hub in hubs]
        try:
            missed = [elsewhere.publish("t", n).result(PATIENCE) for n in range(3)]
            proxy.restore()
            are(hubs, "connected", promised(RECOVERY))
            hubs[0].publish("end")
            for client in resuming:
                assert [client.event().id for _ in missed] == missed
                assert client.until("end") == ["end"]
                assert client.resets == []
            for client in newcomers:
                seen = client.until("end")
                assert seen == [0, 1, 2, "end"][-len(seen) :]
        finally:
            for client in newcomers + resuming:
                client.close()


def test_a_worker_that_starts_during_an_outage_serves_after_it(
    redis: RedisServer, proxy: Proxy, pair: Pair
) -> None:
    with publisher(redis, pair) as elsewhere:
        ids = [elsewhere.publish("t", n).result(PATIENCE) for n in range(5)]
        proxy.cut()
        hubs = [*pair.hubs(proxy.url, broker=BROKER)]
        with early(hubs, ids, elsewhere):
            are(hubs, "disconnected")
            proxy.restore()
            are(hubs, "connected", promised(RECOVERY))
