"""Who is there, over all processes; and reaching one of them from any."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis_server import Proxy, RedisServer
from redis_workers import Listener, Pair, Worker, app_command, listening, takes
from servers import run, stopped
from sse_hub import BrokerError, Hub, RedisBroker
from waiting import PATIENCE, promised, until


def eventually(look: Callable[[], Any], expected: Any, seconds: float = PATIENCE) -> None:
    """What others see of a process lags a little."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"stays {seen}, not {expected}"
        time.sleep(0.02)


def who(*clients: Listener) -> dict[str, Any]:
    return {"count": len(clients), "ids": sorted(client.id for client in clients)}


async def test_presence_is_of_all_processes_and_by_topic(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.hubs(redis.url)
    async with Hub(redis.url, name=pair.name) as hub:
        there = await hub.presence()
        assert (there.count, there.ids) == (0, ())
        with listening(a.listen("x"), b.listen("x,y"), b.listen("y")) as (one, two, three):
            for worker in (a, b):
                eventually(lambda worker=worker: worker.presence(), who(one, two, three))
                eventually(lambda worker=worker: worker.presence("x"), who(one, two))
                eventually(lambda worker=worker: worker.presence("y"), who(two, three))
                assert worker.presence("z") == who()
            there = await hub.presence("y")
            assert (there.count, there.ids) == (2, tuple(who(two, three)["ids"]))
            two.close()
            eventually(lambda: a.presence("x"), who(one))
            eventually(lambda: a.presence(), who(one, three))


def test_a_hub_that_closes_takes_its_clients_along(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.hubs(redis.url)
    with listening(a.listen(), b.listen()) as (one, two):
        eventually(a.presence, who(one, two))
        pair.workers[1].hubs.popitem()[1].close()
        eventually(a.presence, who(one))


def test_two_hubs_on_one_redis_see_their_own_only(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.workers[0].hub(redis.url, pair.name), pair.workers[1].hub(redis.url, pair.name + "-other")
    with listening(a.listen(), b.listen()) as (one, two):
        eventually(a.presence, who(one))
        eventually(b.presence, who(two))


def test_send_reaches_one_client_wherever_it_is(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.hubs(redis.url)
    with Hub(redis.url, name=pair.name) as hub, listening(a.listen(), b.listen()) as (one, two):
        for sender, client in ((a, two), (b, one), (a, one), (b, two)):
            assert sender.send(client.id, "for you")["id"] is None
        hub.send(one.id, "from elsewhere").result()
        hub.send(two.id, "from elsewhere").result()
        hub.send("nobody", "at all").result()
        hub.publish("t", "for all").result()
        takes([one, two], ["for you", "for you", "from elsewhere", "for all"])


def test_what_is_sent_keeps_its_place_and_is_not_replayed(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.hubs(redis.url)
    with Hub(redis.url, name=pair.name) as hub:
        with listening(b.listen()) as (client,):
            for n in range(50):
                hub.publish("t", n)
                hub.send(client.id, f"after {n}")
            hub.publish("t", "end").result()
            expected = [data for n in range(50) for data in (n, f"after {n}")]
            last, seen = "", []
            for _ in expected:
                event = client.event()
                seen.append(event.json())
                if isinstance(seen[-1], str):
                    assert event.id == last, "it moved the client's position"
                last = event.id
            assert seen == expected
            first = redis.ids(pair.name)[0]
        for worker in (a, b):
            with listening(worker.listen(last_event_id=first)) as (client,):
                assert client.until("end") == [*range(1, 50), "end"]


@pytest.mark.parametrize("sender", [0, 1, 2])
def test_disconnect_reaches_clients_wherever_they_are(redis: RedisServer, pair: Pair, sender: int) -> None:
    a, b = pair.hubs(redis.url)
    with (
        Hub(redis.url, name=pair.name) as hub,
        listening(a.listen(user="u"), b.listen(user="u"), a.listen(user="v"), b.listen()) as clients,
    ):
        ann, ann_too, bob, nobody = clients
        kick: Any = [a.disconnect, b.disconnect, hub.disconnect][sender]
        hub.publish("t", "before").result()
        kick(user="u")
        kick(id=nobody.id)
        takes(clients, ["before"] * 1)
        for client in (ann, ann_too, nobody):
            assert [event for event in client.rest() if event.event == "message"] == []
            assert client.ended
        hub.publish("t", "after").result()
        takes([bob], ["after"])
        eventually(a.presence, who(bob))


async def test_presence_says_when_it_cannot_be_known(redis: RedisServer) -> None:
    async with Hub(RedisBroker(redis.url, timeout=0.5)) as hub:
        await hub.presence()
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
def test_who_is_there_is_known_again_after_it_was_lost_under_a_connection_that_stays(
    redis: RedisServer, pair: Pair, lost: str, newcomer: bool
) -> None:
    a, b = pair.hubs(redis.url)
    with listening(a.listen("x"), b.listen("x"), b.listen("x,y")) as (one, two, three):
        eventually(lambda: a.presence("x"), who(one, two, three))
        if lost == "everything":
            redis.admin.flushall()
        else:
            # As with a worker that stood still for longer than it is believed to be there.
            redis.admin.delete(*redis.admin.keys("*:presence:*"), *redis.admin.keys("*:workers"))
        with listening(*([b.listen("x")] if newcomer else [])) as more:
            eventually(lambda: a.presence("x"), who(one, two, three, *more))
            eventually(lambda: a.presence("y"), who(three))
        eventually(lambda: a.presence(), who(one, two, three))


def test_a_worker_that_stood_still_is_there_again(redis: RedisServer, pair: Pair) -> None:
    a = pair.workers[0].hub(redis.url, pair.name)
    with run(app_command()) as process:
        frozen = Worker(process)
        b = frozen.hub(redis.url, pair.name)
        with listening(a.listen("x"), b.listen("x")) as (one, two):
            eventually(lambda: a.presence("x"), who(one, two))
            with stopped(process.process.pid):
                until(lambda: len(redis.admin.keys("*:presence:*")) == 1)
                assert a.presence("x") == who(one)
            eventually(lambda: a.presence("x"), who(one, two))
        frozen.http.close()


def test_who_is_there_is_known_after_redis_came_back_empty_at_once(redis: RedisServer, pair: Pair) -> None:
    a, b = pair.hubs(redis.url)
    with listening(a.listen("x"), b.listen("x")) as (one, two):
        eventually(lambda: a.presence("x"), who(one, two))
        redis.kill()
        redis.restart(empty=True)
        until(lambda: a.state() == b.state() == "connected")
        eventually(lambda: a.presence("x"), who(one, two))


def test_nobody_is_missed_while_all_is_written_anew(redis: RedisServer, pair: Pair) -> None:
    """A worker whose connections are cut again and again, and one that asks who is there."""
    a = pair.workers[0].hub(redis.url, pair.name)
    with Proxy(redis.port) as proxy:
        b = pair.workers[1].hub(proxy.url, pair.name)
        with listening(*(b.listen(",".join(f"topic {n}" for n in range(3000))) for _ in range(2))) as clients:
            eventually(lambda: a.presence(), who(*clients))
            expected = who(*clients)
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
            eventually(lambda: a.presence("x"), who(one, two))
            process.kill()
            dying.http.close()
            eventually(lambda: a.presence("x"), who(one), promised(17))
            until(lambda: a.presence() == who(one))
    # Nothing of it stays in Redis, but what lives on is still there.
    until(lambda: len(redis.admin.keys("*:presence:*")) <= 1)
    assert a.presence()["count"] <= 1
