"""What a publication reports when Redis does not answer: the truth."""

from __future__ import annotations

import time

import pytest
from redis_outage import RECOVERY, first
from redis_server import Proxy, RedisServer
from redis_workers import Pair, listening, takes
from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
from waiting import PATIENCE, promised, until


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
        with pytest.raises(OutcomeUnknown):  # which the publisher could not learn
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
        until(lambda: hub.stats()["broker"] == "connected", promised(RECOVERY))
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
