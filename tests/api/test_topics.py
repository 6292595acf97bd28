"""Topics: many of one subscriber, coming and going live, and what each keeps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sse_hub import Hub
from sse_hub.testing import Clock, EventClient, connect


async def replayed(hub: Hub, topics: Any, **options: Any) -> list[Any]:
    """What a newcomer with `replay="all"` gets."""
    async with connect(hub.endpoint(topics, replay="all", **options), "/") as client:
        events = []
        while True:
            try:
                events.append((await client.next(timeout=0.02)).json())
            except TimeoutError:
                return events


async def test_an_event_for_several_topics_of_a_subscriber_comes_once() -> None:
    hub = Hub()
    async with connect(hub.endpoint(["a", "b", "a"]), "/") as both, connect(hub.endpoint("b"), "/") as b:
        hub.publish(["a", "b"], 1)
        hub.publish(("b", "b"), 2)
        hub.publish({"a"}, 3)
        hub.publish((topic for topic in ("a", "c")), 4)
        assert [event.data for event in await both.take(4)] == ["1", "2", "3", "4"]
        assert [event.data for event in await b.take(2)] == ["1", "2"]
        await both.silent(0)
        await b.silent(0)
    assert await replayed(hub, ["b", "a"]) == [1, 2, 3, 4]
    assert await replayed(hub, ["c"]) == [4]


async def test_join_and_leave_while_events_flow() -> None:
    hub = Hub()
    async with connect(hub.endpoint("a"), "/") as client:
        (subscriber,) = hub.subscribers()
        hub.publish("b", "before joining")
        assert subscriber.join("b") is True
        hub.publish("b", 1)
        assert subscriber.join(["b", "c"]) is True
        assert subscriber.topics == ("a", "b", "c")
        assert (hub.count("b"), hub.count("c"), hub.count()) == (1, 1, 1)
        hub.publish(["a", "b", "c"], 2)
        assert subscriber.leave(["a", "b", "unknown"]) is True
        hub.publish(["a", "b"], "after leaving")
        hub.publish("c", 3)
        assert [event.data for event in await client.take(3)] == ["1", "2", "3"]
        await client.silent(0)
        assert subscriber.topics == ("c",)
        assert (hub.count("a"), hub.count("b"), hub.count("c")) == (0, 0, 1)
    assert subscriber.join("d") is False
    assert subscriber.leave("c") is False
    assert subscriber.topics == ("c",)
    assert hub.count("d") == 0


async def test_a_topic_that_was_joined_live_is_not_lost_on_a_reconnect() -> None:
    hub = Hub()
    wanted = ["a"]
    async with connect(hub.endpoint(lambda request: wanted), "/") as client:
        hub.publish("a", 0)
        (subscriber,) = hub.subscribers()
        await client.next()
        subscriber.join("b")
        wanted.append("b")
        await client.close()
        hub.publish("b", 1)
        hub.publish("a", 2)
        await client.reconnect()
        assert [event.data for event in await client.take(2)] == ["1", "2"]


async def test_topics_of_five_hundred_subscribers_do_not_mix() -> None:
    hub = Hub()
    streams = [hub.subscribe([f"t{n}", f"t{n + 1}"]) for n in range(500)]
    for n in range(501):
        hub.publish(f"t{n}", raw_data=f"<{n}>")
    for n, stream in enumerate(streams):
        wire = b""
        while f"<{n + 1}>".encode() not in wire:
            wire += await anext(stream)
        assert wire.count(b"data: <") == 2
        assert f"<{n}>".encode() in wire


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"history": 3}, [7, 8, 9]),
        ({"history": 0}, []),
        ({"history_bytes": 0}, []),
        ({"history_total_bytes": 0}, []),
    ],
)
async def test_retention_of_every_topic(options: dict[str, Any], kept: list[int]) -> None:
    hub = Hub(**options)
    for n in range(10):
        hub.publish("t", n)
    assert await replayed(hub, "t") == kept
    assert hub.stats()["history_events"] == len(kept)


async def test_retention_by_bytes_counts_what_is_on_the_wire() -> None:
    hub = Hub(history_bytes=1000)
    for n in range(10):
        hub.publish("t", [n, "x" * 180])
    assert [n for n, _ in await replayed(hub, "t")] == [6, 7, 8, 9]
    hub.publish("t", "x" * 2000)
    assert await replayed(hub, "t") == [], "too large to keep: nothing before it can be proven whole either"


async def test_retention_by_age(clock: Clock) -> None:
    hub = clock.hub(history_age=10, heartbeat=None)
    hub.publish("t", 0)
    await clock.advance(6)
    hub.publish("t", 1)
    assert await replayed(hub, "t") == [0, 1]
    await clock.advance(5)
    assert await replayed(hub, "t") == [1]
    await clock.advance(6)
    assert await replayed(hub, "t") == []
    assert hub.stats()["history_bytes"] == 0


async def test_a_topic_and_a_family_have_their_own_retention() -> None:
    hub = Hub(history=5)
    hub.topic("chat:*", history=3)
    hub.topic("chat:loud", history=1)
    hub.topic("chat:q*", history=2)
    hub.topic("none", history=0)
    for topic in ("chat:a", "chat:loud", "chat:quiet", "none", "other"):
        for n in range(10):
            hub.publish(topic, n)
    assert await replayed(hub, "chat:a") == [7, 8, 9]
    assert await replayed(hub, "chat:loud") == [9], "a plain name beats a pattern"
    assert await replayed(hub, "chat:quiet") == [8, 9], "the newest pattern holds"
    assert await replayed(hub, "none") == []
    assert await replayed(hub, "other") == [5, 6, 7, 8, 9]
    hub.topic("chat:a", history=1)
    assert await replayed(hub, "chat:a") == [9], "what is kept already is brought within new limits"
    with pytest.raises(ValueError, match="history"):
        hub.topic("x", history=-1)
    with pytest.raises(ValueError, match="control character"):
        hub.topic("a\nb")


async def test_a_familys_age(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    hub.topic("short:*", history_age=5)
    hub.publish(["short:a", "long"], 1)
    await clock.advance(6)
    assert await replayed(hub, "short:a") == []
    assert await replayed(hub, "long") == [1]
    assert await replayed(hub, ["short:a", "long"]) == [1]


async def test_retention_rules_outlive_a_close() -> None:
    hub = Hub()
    hub.topic("t", history=1)
    await hub.aclose()
    for n in range(3):
        hub.publish("t", n)
    assert await replayed(hub, "t") == [2]


async def test_the_hub_wide_budget_takes_the_oldest_first() -> None:
    hub = Hub(history_total_bytes=20_000)
    for n in range(200):
        hub.publish(f"t{n % 10}", [n, "x" * 100])
    kept = sorted([n for t in range(10) for n, _ in await replayed(hub, f"t{t}")])
    assert kept == list(range(kept[0], 200)), "an unbroken run of the newest"
    assert 20 < len(kept) < 100
    assert hub.stats()["history_bytes"] <= 20_000
    # What was taken is remembered.
    epoch = hub.stats()["epoch"]
    async with connect(hub.endpoint("t0"), "/", last_event_id=f"{epoch}-5", control=True) as client:
        await client.next()
        assert (await client.next()).json()["reason"] == "evicted"


async def test_an_event_of_many_topics_is_counted_once_in_the_budget() -> None:
    hub = Hub(history_total_bytes=100_000)
    for n in range(100):
        hub.publish([f"t{k}" for k in range(20)], [n, "x" * 100])
    assert len(await replayed(hub, "t7")) == 100
    assert hub.stats()["history_events"] == 100
    assert hub.stats()["history_bytes"] < 40_000


@pytest.mark.parametrize("options", [{"history": 0}, {"history_total_bytes": 100_000}])
async def test_fifty_thousand_topics_do_not_pile_up_by_publishing(options: dict[str, Any]) -> None:
    hub = Hub(**options)
    hub.publish("start", 1)
    for n in range(50_000):
        hub.publish(f"user:{n}", n)
    assert hub.stats()["topics"] < 1000
    assert hub.stats()["history_bytes"] <= 100_000


async def test_fifty_thousand_topics_do_not_pile_up_by_age(clock: Clock) -> None:
    hub = clock.hub(history_age=10)
    for n in range(50_000):
        hub.publish(f"user:{n}", n)
    await clock.advance(11)
    hub.publish("one more", 1)
    stats = hub.stats()
    assert (stats["topics"], stats["history_events"]) == (1, 1)


async def test_a_topic_with_a_subscriber_is_never_evicted() -> None:
    hub = Hub(history=0)
    async with connect(hub.endpoint("quiet"), "/") as client:
        for n in range(5000):
            hub.publish(f"noise:{n}", n)
            if n % 500 == 0:
                await asyncio.sleep(0)
        hub.publish("quiet", "still here")
        assert (await client.next()).json() == "still here"


async def test_an_evicted_topics_past_is_never_taken_for_whole() -> None:
    hub = Hub(history_total_bytes=10_000)
    first = await hub.publish("rare", 1)
    hub.publish("rare", 2)
    for n in range(5000):
        hub.publish(f"noise:{n}", n)
    assert hub.stats()["topics"] < 1000
    client: EventClient = await connect(hub.endpoint("rare"), "/", last_event_id=first, control=True)
    assert [event.event for event in await client.take(2)] == ["stream-open", "stream-reset"]
    await client.close()
