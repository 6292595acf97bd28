"""`initial`: a snapshot before everything newer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sse_hub import EventTooLarge, Hub, InvalidEvent, Subscription
from sse_hub.event import ServerSentEvent
from sse_hub.testing import Event, connect
from waiting import PATIENCE


def plain(subscriber: Subscription) -> list[Any]:
    return [{"row": 1}, {"row": 2}]


async def awaited(subscriber: Subscription) -> tuple[Any, ...]:
    await asyncio.sleep(0)
    return {"row": 1}, {"row": 2}


def generated(subscriber: Subscription) -> Iterator[Any]:
    yield {"row": 1}
    yield ServerSentEvent('{"row":2}', event="message")


async def streamed(subscriber: Subscription) -> AsyncIterator[Any]:
    yield {"row": 1}
    await asyncio.sleep(0)
    yield {"row": 2}


@pytest.mark.parametrize("initial", [plain, awaited, generated, streamed])
async def test_the_snapshot_comes_first_and_its_last_event_carries_the_id(initial: Any) -> None:
    hub = Hub()
    cursor = await hub.publish("t", "in the snapshot already")
    async with connect(hub.endpoint("t", initial=initial), "/", control=True) as client:
        hub.publish("t", "newer")
        opening, one, two, newer = await client.take(4)
        assert (opening.event, opening.id) == ("stream-open", ""), "no id that would skip the snapshot"
        assert (one.data, one.id) == ('{"row":1}', "")
        assert two == Event("message", '{"row":2}', cursor)
        assert newer.data == '"newer"'


async def test_a_single_value_is_one_event_and_none_is_no_event() -> None:
    hub = Hub()
    for initial, wanted in [
        (lambda subscriber: {"all": [1]}, '{"all":[1]}'),
        (lambda subscriber: ServerSentEvent("text", event="snapshot"), "text"),
        (lambda subscriber: "two\nlines", '"two\\nlines"'),
        (lambda subscriber: [[1], [2]], "[1]"),
    ]:
        async with connect(hub.endpoint("t", initial=initial), "/") as client:
            assert (await client.next()).data == wanted
    cursor = await hub.publish("t", 1)
    for nothing in (lambda subscriber: None, lambda subscriber: [], lambda subscriber: (x for x in ())):
        async with connect(hub.endpoint("t", initial=nothing), "/", control=True) as client:
            assert [(event.event, event.id) for event in await client.take(2)] == [
                ("stream-open", ""),
                ("stream-cursor", cursor),
            ]
            await client.silent(0)


async def test_live_events_are_held_back_until_it_is_done() -> None:
    hub = Hub(capacity=5)
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(subscriber: Subscription) -> list[str]:
        started.set()
        await release.wait()
        return ["snapshot"]

    async with connect(hub.endpoint("t", initial=slow), "/") as client:
        await started.wait()
        for n in range(1000):
            hub.publish("t", n)
        await client.silent(0.05)
        release.set()
        assert (await client.next()).json() == "snapshot"
        assert [event.json() for event in await client.take(1000)] == list(range(1000))


async def test_it_gets_the_subscriber_and_runs_after_it_was_registered() -> None:
    hub = Hub()
    seen: list[Any] = []

    def initial(subscriber: Subscription) -> list[Any]:
        seen.append((subscriber.user, subscriber.info, subscriber.recovered, hub.count("t")))
        subscriber.join("more")
        hub.publish(["t", "more"], "published by the snapshot itself")
        return ["snapshot"]

    async with connect(hub.endpoint("t", initial=initial, user="ann", info={"x": 1}), "/") as client:
        assert [event.json() for event in await client.take(2)] == [
            "snapshot",
            "published by the snapshot itself",
        ]
    assert seen == [("ann", {"x": 1}, None, 1)]


async def test_a_complete_resume_skips_it_and_a_reset_does_not() -> None:
    hub = Hub(history=2)
    ids = [await hub.publish("t", n) for n in range(4)]
    calls: list[Any] = []

    def initial(subscriber: Subscription) -> list[str]:
        calls.append(subscriber.recovered)
        return ["snapshot"]

    app = hub.endpoint("t", initial=initial)
    async with connect(app, "/", last_event_id=ids[2], control=True) as client:
        assert [event.data for event in await client.take(2)] == ["", "3"]
    assert calls == []
    for bad in (ids[0], "foreign"):
        async with connect(app, "/", last_event_id=bad, control=True) as client:
            events = await client.take(3)
            assert [event.event for event in events] == ["stream-open", "stream-reset", "message"]
            assert (events[2].json(), events[2].id) == ("snapshot", ids[3])
            await client.silent(0)
    assert calls == [False, False]


async def test_a_client_cut_inside_the_snapshot_gets_all_of_it_again() -> None:
    hub = Hub()
    hub.publish("t", 0)
    async with connect(hub.endpoint("t", initial=plain), "/") as client:
        assert (await client.next()).json() == {"row": 1}
        assert client.last_event_id == ""
        await client.reconnect("")
        assert [event.json() for event in await client.take(2)] == [{"row": 1}, {"row": 2}]
        await client.reconnect()
        await client.silent(0)


async def test_a_snapshot_is_not_followed_by_what_it_contains() -> None:
    hub = Hub(history=5)
    for n in range(5):
        hub.publish("t", n)
    app = hub.endpoint("t", initial=plain, replay="all")
    async with connect(app, "/") as client:
        assert [event.json() for event in await client.take(2)] == [{"row": 1}, {"row": 2}]
        hub.publish("t", 5)
        last = await client.next()
        assert last.json() == 5
    for n in range(10):  # what it missed is evicted
        hub.publish("t", n)
    async with connect(app, "/", last_event_id=last.id) as client:
        assert [event.json() for event in await client.take(2)] == [{"row": 1}, {"row": 2}]
        assert hub.stats()["resets"] == 1
        hub.publish("t", "new")
        assert (await client.next()).json() == "new"


async def test_replay_is_for_clients_without_a_snapshot() -> None:
    hub = Hub()
    for n in range(5):
        hub.publish("t", n)
    async with connect(hub.endpoint("t", initial=lambda client: None, replay=2), "/") as client:
        assert [event.json() for event in await client.take(2)] == [3, 4]
        hub.publish("t", 5)
        assert (await client.next()).json() == 5


async def test_what_is_wrong_with_it_ends_the_response_and_leaves_nobody_behind() -> None:
    hub = Hub(max_event_bytes=1000)
    reasons: asyncio.Queue[str] = asyncio.Queue()
    hub.on_disconnect(lambda _, reason: reasons.put_nowait(reason))

    async def fails(subscriber: Subscription) -> list[Any]:
        raise LookupError("the database is down")

    for initial, error in [
        (fails, LookupError),
        (lambda subscriber: [float("nan")], InvalidEvent),
        (lambda subscriber: [ServerSentEvent("x", event="stream-x")], InvalidEvent),
        (lambda subscriber: ["x" * 2000], EventTooLarge),
        (lambda subscriber: [object()], TypeError),
    ]:
        client = await connect(hub.endpoint("t", initial=initial), "/")
        with pytest.raises(error):
            await client.next()
        await client.close()
        assert hub.count() == 0
        assert await asyncio.wait_for(reasons.get(), PATIENCE) == "error"


@pytest.mark.parametrize("how", ["kick", "close"])
async def test_a_stream_that_ends_before_its_snapshot_sends_nothing_newer(how: str) -> None:
    """An id beyond the snapshot would let the client resume without it."""
    hub = Hub()
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(subscriber: Subscription) -> list[str]:
        started.set()
        await release.wait()
        return ["snapshot"]

    async with connect(hub.endpoint("t", initial=slow), "/", control=True) as client:
        await started.wait()
        hub.publish("t", "newer")
        (subscriber,) = hub.subscribers()
        if how == "kick":
            hub.disconnect(id=subscriber.id)
        else:
            await asyncio.sleep(0.01)
            subscriber.close()
        await asyncio.sleep(0.01)
        release.set()
        events = await client.rest()
        assert [event.event for event in events] == ["stream-open"]
        assert client.last_event_id == ""
