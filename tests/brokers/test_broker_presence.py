"""Presence over all processes, and reaching any client from any process."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from redis_server import RedisServer
from redis_workers import Pair, WorkerHub, listening, presence_of, takes
from sse_hub import Hub
from sse_hub.testing import connect
from stores import Store
from waiting import PATIENCE, eventually, promised, until_async

UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=0)


async def test_presence_is_of_all_processes_and_by_topic(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    async with Hub(store.url, name=pair.name) as hub:
        there = await hub.presence()
        assert (there.count, there.ids) == (0, ())
        with listening(a.listen("x"), b.listen("x,y"), b.listen("y")) as (one, two, three):
            for worker in (a, b):
                eventually(lambda worker=worker: worker.presence(), presence_of(one, two, three))
                eventually(lambda worker=worker: worker.presence("x"), presence_of(one, two))
                eventually(lambda worker=worker: worker.presence("y"), presence_of(two, three))
                assert worker.presence("z") == presence_of()
            there = await hub.presence("y")
            assert (there.count, there.ids) == (2, tuple(presence_of(two, three)["ids"]))
            two.close()
            eventually(lambda: a.presence("x"), presence_of(one))
            eventually(lambda: a.presence(), presence_of(one, three))


def test_a_client_that_comes_or_leaves_is_noticed_soon(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with listening(a.listen()) as (one,):
        # Just written: the worker writes that it is alive five seconds later.
        eventually(b.presence, presence_of(one))
        with listening(a.listen()) as (two,):
            eventually(b.presence, presence_of(one, two), promised(0.8))
        eventually(b.presence, presence_of(one), promised(0.8))


def test_a_hub_that_closes_takes_its_clients_along(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with listening(a.listen(), b.listen()) as (one, two):
        eventually(a.presence, presence_of(one, two))
        pair.workers[1].hubs.popitem()[1].close()
        eventually(a.presence, presence_of(one))


def test_two_hubs_on_one_redis_see_their_own_only(store: Store, pair: Pair) -> None:
    a, b = pair.workers[0].hub(store.url, pair.name), pair.workers[1].hub(store.url, pair.name + "-other")
    with listening(a.listen(), b.listen()) as (one, two):
        eventually(a.presence, presence_of(one))
        eventually(b.presence, presence_of(two))


def test_send_reaches_one_client_wherever_it_is(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with Hub(store.url, name=pair.name) as hub, listening(a.listen(), b.listen()) as (one, two):
        for sender, client in ((a, two), (b, one), (a, one), (b, two)):
            assert sender.send(client.id, "for you")["id"] is None
        hub.send(one.id, "from elsewhere").result()
        hub.send(two.id, "from elsewhere").result()
        hub.send("nobody", "at all").result()
        hub.publish("t", "for all").result()
        takes([one, two], ["for you", "for you", "from elsewhere", "for all"])


def test_what_is_sent_keeps_its_place_and_is_not_replayed(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with Hub(store.url, name=pair.name) as hub:
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
            first = store.ids(pair.name)[0]
        for worker in (a, b):
            with listening(worker.listen(last_event_id=first)) as (client,):
                assert client.until("end") == [*range(1, 50), "end"]


@pytest.mark.parametrize("sender", [0, 1, 2])
def test_disconnect_reaches_clients_wherever_they_are(store: Store, pair: Pair, sender: int) -> None:
    a, b = pair.hubs(store.url)
    with (
        Hub(store.url, name=pair.name) as hub,
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
        eventually(a.presence, presence_of(bob))


def test_the_streams_of_a_user_are_limited_over_all_processes(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url, max_per_user=2, full_status=503)

    def ask(worker: WorkerHub) -> tuple[int, str | None]:
        answer = httpx.get(f"http://127.0.0.1:{worker.port}/{worker.name}/events?user=ann", timeout=PATIENCE)
        return answer.status_code, answer.headers.get("retry-after")

    with listening(a.listen(user="ann"), b.listen(user="ann"), b.listen(user="bob")) as (one, two, bob):
        for worker in (a, b):
            eventually(worker.presence, presence_of(one, two, bob))
        assert ask(a) == ask(b) == (429, "30")
        two.close()
        eventually(a.presence, presence_of(one, bob))
        with listening(a.listen(user="ann")) as (again,):
            eventually(b.presence, presence_of(one, again, bob))
            assert ask(a) == ask(b) == (429, "30")


async def test_requests_at_the_same_moment_never_exceed_the_limit(store: Store, pair: Pair) -> None:
    limit, at_once = 2, 8
    a, b = pair.hubs(store.url, max_per_user=limit, full_status=503)
    for worker in (a, b):  # Both are connected, and have written who is there.
        with listening(worker.listen(user="somebody")) as (client,):
            eventually(worker.presence, presence_of(client))
    statuses: dict[str, list[int]] = {}
    refused = asyncio.Event()
    users = [f"user{number}" for number in range(5)]

    async def ask(http: httpx.AsyncClient, worker: WorkerHub, user: str) -> None:
        url = f"http://127.0.0.1:{worker.port}/{worker.name}/events?topics=t&user={user}"
        async with http.stream("GET", url) as answer:
            said = statuses.setdefault(user, [])
            said.append(answer.status_code)
            if sum(map(len, statuses.values())) == len(users) * at_once:
                refused.set()
            await refused.wait()  # What has begun stays open until everybody has an answer.

    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=UNLIMITED) as http:
        asking = [ask(http, (a, b)[number % 2], user) for user in users for number in range(at_once)]
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*asking)
    for user in users:
        assert sorted(statuses[user]) == [200] * limit + [429] * (at_once - limit), user
    eventually(a.presence, presence_of())


async def test_a_place_that_no_stream_takes_is_free_again(store: Store) -> None:
    async with Hub(store.url, name="news", max_per_user=1) as one, Hub(store.url, name="news") as two:
        app = one.endpoint("t", user="ann")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as http:
            assert (await http.head("/")).status_code == 200
        async with connect(app, "/") as client:
            two.publish("t", 1)
            assert (await client.next(PATIENCE)).json() == 1


async def test_without_the_broker_each_process_counts_its_own(redis: RedisServer) -> None:
    async with Hub(redis.url, max_per_user=1) as hub:
        app = hub.endpoint("t", user="ann")
        async with connect(app, "/") as first:
            redis.kill()
            async with connect(app, "/") as second:
                assert await second.rest(PATIENCE) == []
                assert second.retry == 30_000
            assert not first.ended


async def test_who_was_in_a_topic_whose_name_is_free_is_in_it_no_longer(store: Store) -> None:
    async with Hub(store.url) as hub:
        async with hub.subscribe(["a", "b"]) as subscription:
            await anext(subscription)
            assert (await hub.presence("a")).ids == (subscription.id,)
            await hub.end("a", keep=0)
            await until_async(lambda: hub._ending("a") is not None or hub.stats()["topics"] == 1)
            await until_async(lambda: hub.stats()["topics"] == 1)
            assert subscription.topics == ("b",)
            assert (await hub.presence("a")).ids == ()
            assert (await hub.presence("b")).ids == (subscription.id,)
        assert (await hub.presence("b")).ids == ()
