"""What clients and publishers see while Redis is away, and when it is back.

Connected clients stay and get heartbeats; afterwards they get everything that is in the stream, in order and
once; what cannot be proven complete is a ``stream-reset``; a publication tells the truth.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from redis_server import Proxy, RedisServer, stream_key
from redis_workers import Listener, Pair, Worker, WorkerHub, app_command, listening, takes
from servers import run
from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
from waiting import PATIENCE, promised, until

# How long after Redis is back everybody has to be served again.
RECOVERY = 2.0
# Short, so that an outage which lasts longer takes no time.
BROKER: dict[str, Any] = {"timeout": 1.0, "connect_timeout": 1.0}
HISTORY = 10_000


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[Proxy]:
    """A network between the workers and Redis."""
    with Proxy(redis.port) as proxy:
        yield proxy


@contextmanager
def scene(pair: Pair, url: str, **options: Any) -> Iterator[tuple[list[WorkerHub], tuple[Listener, ...]]]:
    """A hub on both workers, with a client on each that has seen one event."""
    hubs = [*pair.hubs(url, broker=BROKER, history=HISTORY, **options)]
    for hub in hubs:
        hub.presence()
    # Whoever comes while that takes long is told so by a reset.
    are(hubs, "connected", 30)
    with listening(hubs[0].listen(), hubs[1].listen()) as clients:
        hubs[0].publish("before")
        takes(clients, ["before"])
        assert [client.seen()["path"] for client in clients] == ["loop", "reactor"]
        yield hubs, clients


def publisher(redis: RedisServer, pair: Pair) -> Hub:
    """The hub in this process, by a way of its own to Redis."""
    return Hub(redis.url, name=pair.name, history=HISTORY)


def first(hub: Hub) -> None:
    """A first event, and all of the hub's connections."""
    hub.publish("t", "first").result(PATIENCE)
    until(lambda: hub.stats()["broker"] == "connected")


def are(hubs: list[WorkerHub], state: str, seconds: float = PATIENCE) -> None:
    """They all get to say so within this time."""
    until(lambda: all(hub.state() == state for hub in hubs), seconds)


def stay(clients: tuple[Listener, ...]) -> None:
    """They are connected, and get heartbeats and nothing else."""
    for client in clients:
        for _ in range(2):
            client.heartbeat()


def served_again(back: float, hubs: list[WorkerHub], publisher: Any) -> None:
    """Publish until it works, which has to be soon after ``back``."""
    in_time = promised(RECOVERY + BROKER["timeout"])
    while True:
        (outcome,) = publisher(f"after {time.monotonic() - back:.3f}")
        assert time.monotonic() - back < in_time, f"not served again: {outcome}"
        if "id" in outcome:
            break
    are(hubs, "connected", promised(RECOVERY))
    assert time.monotonic() - back < in_time


def get_all(redis: RedisServer, pair: Pair, clients: tuple[Listener, ...], after: str) -> None:
    """Each client gets what is in the stream behind this id: in order, once, and without a reset."""
    ids = redis.ids(pair.name)
    ids = ids[ids.index(after) + 1 :] if after else ids
    for client in clients:
        assert [client.event().id for _ in ids] == ids
        client.heartbeat()
        assert client.resets == []


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


@pytest.mark.parametrize("clock", ["goes on", "was set back"])
def test_everything_is_deleted_under_a_connection_that_stays(
    redis: RedisServer, pair: Pair, clock: str
) -> None:
    if clock == "was set back":
        redis.clock_ahead(pair.name)
    with scene(pair, redis.url) as (hubs, clients):
        redis.admin.flushall()
        flushed = time.monotonic()
        for client in clients:
            client.until_reset()
        assert time.monotonic() - flushed < promised(5)
        hubs[0].publish("anew")
        takes(clients, ["anew"])
        for client in clients:
            assert client.resets == []


def test_everything_is_deleted_and_published_anew_at_once(redis: RedisServer, pair: Pair) -> None:
    """With ids that go on growing: only the chain shows it."""
    with scene(pair, redis.url) as (hubs, clients):
        redis.admin.flushall()
        hubs[0].publish("anew")
        for client in clients:
            client.until_reset()
        takes(clients, ["anew"])
        hubs[1].publish("and on")
        takes(clients, ["and on"])
        for client in clients:
            assert client.resets == []


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
        proxy.delay = 0.1
        for n in range(3):
            assert "id" in hubs[n % 2].outcomes(n)[0]
        get_all(redis, pair, clients, last)
        assert [hub.state() for hub in hubs] == ["connected", "connected"]


def test_trimmed_while_away(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    with scene(pair, proxy.url) as (hubs, clients), publisher(redis, pair) as elsewhere:
        proxy.cut()
        ids = [elsewhere.publish("t", n).result(PATIENCE) for n in range(20)]
        redis.admin.xtrim(stream_key(pair.name), maxlen=5, approximate=False)
        are(hubs, "disconnected")
        proxy.restore()
        for client in clients:
            client.until_reset()
            # What is left is theirs, in order; what they get, they get once.
            rest = [*range(20)]
            seen = client.until(19)
            assert seen == rest[-len(seen) :]
            assert client.last_event_id == ids[-1]
        hubs[0].publish("and on")
        takes(clients, ["and on"])
        for client in clients:
            assert client.resets == []


def test_trimmed_behind_readers_that_have_everything(redis: RedisServer, pair: Pair) -> None:
    with scene(pair, redis.url) as (hubs, clients):
        redis.admin.xtrim(stream_key(pair.name), maxlen=0, approximate=False)
        hubs[0].publish(1)
        hubs[1].publish(2)
        get_all(redis, pair, clients, "")


def test_every_connection_is_killed(redis: RedisServer, pair: Pair) -> None:
    with scene(pair, redis.url) as (hubs, clients):
        (last,) = redis.ids(pair.name)
        redis.admin.client_kill_filter(_type="normal")
        served_again(time.monotonic(), hubs, hubs[0].outcomes)
        get_all(redis, pair, clients, last)


def test_a_lost_answer_is_said_and_nothing_is_sent_twice(
    redis: RedisServer, proxy: Proxy, pair: Pair
) -> None:
    a, b = pair.hubs(redis.url)
    with (
        listening(a.listen(), b.listen()) as clients,
        Hub(RedisBroker(proxy.url, timeout=5.0), name=pair.name) as hub,
    ):
        first(hub)
        proxy.hold_replies()
        published = hub.publish("t", "second")
        takes(clients, ["first", "second"])  # it is done,
        proxy.cut()
        with pytest.raises(OutcomeUnknown):  # which nobody could tell the publisher.
            published.result(PATIENCE)
        assert published.done()
        assert published.id is None
        proxy.restore()
        until(lambda: hub.stats()["broker"] == "connected")
        hub.publish("t", "third").result(PATIENCE)
        takes(clients, ["third"])
    assert len(redis.ids(pair.name)) == 3


def test_an_answer_that_does_not_come_is_unknown_in_time(redis: RedisServer, proxy: Proxy) -> None:
    with Hub(RedisBroker(proxy.url, timeout=1.0)) as hub:
        first(hub)
        proxy.hold_replies()
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            hub.publish("t", 2).result()
        assert 0.9 < time.monotonic() - began < promised(2.5)
        proxy.restore()
        hub.publish("t", 3).result(PATIENCE)
    assert len(redis.ids()) == 3


def test_what_could_not_be_sent_in_time_is_never_sent(redis: RedisServer, proxy: Proxy) -> None:
    with Hub(RedisBroker(proxy.url, timeout=1.0)) as hub:
        first(hub)
        proxy.cut()
        until(lambda: hub.stats()["broker"] == "disconnected")
        began = time.monotonic()
        failing = [hub.publish("t", "not this") for _ in range(100)]
        for one in failing:
            with pytest.raises(BrokerError) as raised:
                one.result()
            assert not isinstance(raised.value, OutcomeUnknown)
        assert 0.9 < time.monotonic() - began < promised(2.5)
        proxy.restore()
        until(lambda: hub.stats()["broker"] == "connected", promised(RECOVERY))
        hub.publish("t", 2).result(PATIENCE)
    assert len(redis.ids()) == 2


def test_what_is_published_in_a_short_outage_is_sent_after_it(redis: RedisServer, proxy: Proxy) -> None:
    with Hub(RedisBroker(proxy.url, timeout=5.0)) as hub:
        first(hub)
        proxy.cut()
        until(lambda: hub.stats()["broker"] == "disconnected")
        waiting = [hub.publish("t", n) for n in range(100)]
        proxy.restore()
        assert [one.result() for one in waiting] == redis.ids()[1:]


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


def test_a_server_that_refuses_to_be_followed_is_told_of_once(
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
        assert all(one.done() for one in small)
        proxy.cut()
        are(hubs, "disconnected")
        large = [str(elsewhere.publish("t", f"{n} {'x' * 40_000}").result(PATIENCE)) for n in range(60)]
        proxy.restore()
        for client in clients:
            assert [client.event().id for _ in large] == large
            assert client.resets == []
        lines = [line for line in pair.output().splitlines() if pair.name in line]
        assert sum("no connection to" in line for line in lines) == len(hubs), lines


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


def test_who_comes_during_an_outage_misses_nothing_after_it(
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
        clients = [hub.listen(last_event_id=str(ids[1])) for hub in hubs]
        newcomers = [hub.listen() for hub in hubs]
        try:
            are(hubs, "disconnected")
            proxy.restore()
            are(hubs, "connected", promised(RECOVERY))
            elsewhere.publish("t", "end").result(PATIENCE)
            for client in clients:
                assert client.until("end") == [2, 3, 4, "end"]
                assert client.resets == []
            for client in newcomers:
                assert client.until("end")[-1] == "end"
        finally:
            for client in clients + newcomers:
                client.close()


def test_a_failover_to_a_replica_that_was_behind(redis: RedisServer, proxy: Proxy, pair: Pair) -> None:
    """The old primary had what the new one never saw: nobody may believe that it is all there."""
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


def told_once_and_on(redis: RedisServer, pair: Pair, hubs: list[WorkerHub], clients: Any, lost: str) -> None:
    """The stream is the same, without its newest event: all are told, and nobody gets anything twice."""
    for client in clients:
        client.until_reset()
    kept = redis.ids(pair.name)
    assert [client.last_event_id for client in clients] == [kept[-1]] * 2
    with publisher(redis, pair) as elsewhere:
        published = [str(elsewhere.publish("t", n).result(PATIENCE)) for n in range(3)]
    takes(clients, [0, 1, 2])
    for client in clients:
        assert client.resets == []
    for hub in hubs:
        # Whoever comes with what is lost is told; with what is not, it gets the rest.
        with listening(hub.listen(last_event_id=lost), hub.listen(last_event_id=kept[0])) as (late, early):
            late.until_reset()
            assert [early.event().id for _ in kept[1:] + published] == kept[1:] + published
            assert early.resets == []
            hubs[0].publish(f"to all of {hub.worker.port}")
            takes([late], [f"to all of {hub.worker.port}"])


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
        told_once_and_on(late, pair, hubs, clients, lost)


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


def test_redis_is_killed_before_it_has_written_the_newest_event(redis: RedisServer, pair: Pair) -> None:
    with scene(pair, redis.url) as (hubs, clients):
        hubs[0].publish("kept", "kept too")
        disk = redis.keep_disk()
        (lost,) = hubs[1].publish("lost")
        takes(clients, ["kept", "kept too", "lost"])
        redis.kill()
        are(hubs, "disconnected")
        redis.restart_with(disk)
        told_once_and_on(redis, pair, hubs, clients, lost)


def test_a_server_stops_although_redis_stands_still(redis: RedisServer) -> None:
    with run(app_command()) as process:
        worker = Worker(process)
        hub = worker.hub(redis.url, "default", broker=BROKER)
        with listening(hub.listen()):
            redis.pause()
            process.terminate()
            began = time.monotonic()
            assert process.wait() in (0, -15)
            assert time.monotonic() - began < promised(5)
        worker.http.close()
        assert "lifespan ended" in process.output
        assert "Traceback" not in process.output
