"""Ids, replay and resets: what returning clients and newcomers receive."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sse_hub import Hub
from sse_hub.testing import EventClient, connect
from waiting import PATIENCE
from wire import names


async def opened(
    hub: Hub, topics: Any = "t", last_event_id: str | None = None, **options: Any
) -> EventClient:
    return await connect(hub.endpoint(topics, **options), "/", last_event_id=last_event_id, control=True)


async def test_ids_are_opaque_ordered_and_never_reused() -> None:
    hub = Hub()
    ids = [hub.publish(topic, 1).id or "" for topic in "abab"] + [hub.broadcast(1).id or ""]
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", id) for id in ids)
    epochs = {id.rpartition("-")[0] for id in ids}
    assert len(epochs) == 1
    assert [int(id.rpartition("-")[2]) for id in ids] == [1, 2, 3, 4, 5]
    assert Hub().publish("a", 1).id not in ids
    await hub.aclose()
    assert hub.publish("a", 1).id not in ids


async def test_a_stream_opens_with_a_comment_retry_and_the_cursor() -> None:
    hub = Hub(reconnect=(2.0, 3.0))
    hub.publish("t", 1)
    newest = await hub.publish("other", 2)
    stream = hub.subscribe("t")
    first = (await anext(stream)).decode()
    comment, rest = first.split("\n", 1)
    assert re.fullmatch(rf"id: {newest}\nevent: stream-open\ndata: ?\nretry: (\d+)\n\n", rest)
    assert comment.startswith(": sse-hub heartbeat=")
    assert 11.25 <= float(comment.partition("=")[2]) <= 15
    retries = set()
    for _ in range(50):
        async with connect(hub.endpoint("t"), "/", control=True) as client:
            opening = await client.next()
            assert (opening.event, opening.data, opening.id) == ("stream-open", "", newest)
            assert opening.retry is not None
            assert 2000 <= opening.retry <= 3000
            retries.add(opening.retry)
    assert len(retries) > 25, "each client gets its own"


async def test_a_client_cut_before_its_first_event_resumes() -> None:
    hub = Hub()
    client = await opened(hub)
    await client.next()
    await client.close()
    hub.publish("t", 1)
    await client.reconnect()
    assert names(await client.take(2)) == ["stream-open", "1"]
    await client.close()


async def test_resuming_gives_exactly_what_was_missed_each_once_in_order() -> None:
    hub = Hub()
    seen = await hub.publish(["a", "b"], 0)
    for n in range(1, 100):
        hub.publish([["a"], ["b"], ["a", "b"], ["other"]][n % 4], n)
    hub.broadcast(100)
    client = await opened(hub, ["a", "b"], seen)
    opening = await client.next()
    assert opening.id == seen, "what is still to come stays ahead of the client's id"
    wanted = [n for n in range(1, 101) if n % 4 != 3 or n == 100]
    assert [event.json() for event in await client.take(len(wanted))] == wanted
    (subscriber,) = hub.subscribers()
    assert subscriber.recovered is True
    hub.publish("a", 101)
    assert (await client.next()).json() == 101
    await client.silent(0)
    await client.close()


async def test_a_long_replay_is_read_in_pieces_with_live_events_behind_it() -> None:
    hub = Hub(history=5000, capacity=10)
    seen = await hub.publish("t", 0)
    for n in range(1, 4000):
        hub.publish("t", n)
    stream = hub.subscribe("t", last_event_id=seen)
    first = await anext(stream)
    assert first.count(b"\ndata: ") < 1000
    for n in range(4000, 4500):
        hub.publish("t", n)
    wire = first
    while b"data: 4499\n" not in wire:
        wire += await anext(stream)
    data = [int(n) for n in re.findall(rb"^data: (\d+)$", wire, re.MULTILINE)]
    assert data == list(range(1, 4500))


@pytest.mark.parametrize(
    "given", ["x", "1", "-", "abc-01", "abc--1", "a b-1", "é-1", "k3f9x2-99999999999999999999", "\0"]
)
async def test_a_foreign_id_resets(given: str) -> None:
    hub = Hub()
    hub.publish("t", "past")
    client = await opened(hub, "t", given)
    opening, reset = await client.take(2)
    assert opening.event == "stream-open"
    assert reset.json() == {"reason": "unknown", "requested": given}
    assert opening.id == given, "until it is told of the gap, the client has what it had"
    assert reset.id == f"{hub.stats()['epoch']}-1"
    assert hub.subscribers()[0].recovered is False
    await client.silent(0)
    await client.close()


async def test_an_overlong_id_resets_and_is_not_sent_back() -> None:
    hub = Hub()
    client = await opened(hub, "t", "x" * 5000)
    assert (await client.take(2))[1].json() == {"reason": "unknown", "requested": None}
    await client.close()


async def test_an_id_of_an_earlier_life_resets() -> None:
    hub = Hub()
    old = await hub.publish("t", 1)
    await hub.aclose()
    client = await opened(hub, "t", old)
    assert (await client.take(2))[1].json() == {"reason": "epoch", "requested": old}
    await client.close()


async def test_an_id_beyond_the_head_resets() -> None:
    hub = Hub()
    hub.publish("t", 1)
    ahead = f"{hub.stats()['epoch']}-2"
    client = await opened(hub, "t", ahead)
    assert (await client.take(2))[1].json() == {"reason": "ahead", "requested": ahead}
    await client.close()


async def test_an_evicted_id_resets_and_what_is_left_still_comes() -> None:
    hub = Hub(history=3)
    ids = [await hub.publish("t", n) for n in range(6)]
    client = await opened(hub, "t", ids[2])
    assert names(await client.take(4)) == ["stream-open", "3", "4", "5"]
    await client.close()
    client = await opened(hub, "t", ids[1])
    events = await client.take(5)
    assert names(events) == ["stream-open", "stream-reset", "3", "4", "5"]
    assert events[1].json() == {"reason": "evicted", "requested": ids[1]}
    hub.publish("t", 6)
    assert (await client.next()).data == "6"
    await client.close()
    # Only the topics that were subscribed count.
    client = await opened(hub, "quiet", ids[0])
    assert names(await client.take(1)) == ["stream-open"]
    await client.silent(0)
    await client.close()
    assert hub.stats()["resets"] == 1
    assert hub.stats()["resumed"] == 2


async def test_history_evicted_while_it_is_replayed_is_announced() -> None:
    hub = Hub(history=2000, capacity=100_000)
    seen = await hub.publish("t", 0)
    for n in range(1, 2000):
        hub.publish("t", n)
    stream = hub.subscribe("t", last_event_id=seen)
    wire = await anext(stream)
    for n in range(2000, 5000):
        hub.publish("t", n)
    while b"data: 4999\n" not in wire:
        wire += await anext(stream)
    parts = re.split(rb"event: stream-reset\ndata: (.*)\n\n", wire)
    assert len(parts) == 3
    assert b'"reason":"evicted"' in parts[1]
    before, after = (
        [int(n) for n in re.findall(rb"^data: (\d+)$", part, re.MULTILINE)] for part in (parts[0], parts[2])
    )
    assert before == list(range(1, before[-1] + 1))
    assert after == list(range(after[0], 5000))
    assert after[0] > before[-1]


async def test_an_empty_id_is_a_newcomers() -> None:
    hub = Hub()
    hub.publish("t", 1)
    for headers in ({}, {"Last-Event-ID": ""}):
        async with connect(hub.endpoint("t"), "/", headers=headers, control=True) as client:
            assert names([await client.next()]) == ["stream-open"]
            await client.silent(0)
            assert hub.subscribers()[0].recovered is None


async def test_a_newcomers_replay_counts_per_topic_and_a_clients_id_beats_it() -> None:
    hub = Hub()
    ids = [await hub.publish("ab"[n % 2], n) for n in range(10)]
    for replay, wanted in [(0, []), (1, [8, 9]), (3, [4, 5, 6, 7, 8, 9]), ("all", list(range(10)))]:
        client = await opened(hub, ["a", "b"], replay=replay)
        assert [event.json() for event in (await client.take(1 + len(wanted)))[1:]] == wanted
        await client.silent(0)
        assert hub.subscribers()[0].recovered is None
        await client.close()
    client = await opened(hub, ["a", "b"], ids[7], replay="all")
    assert names(await client.take(3)) == ["stream-open", "8", "9"]
    await client.close()


async def test_a_newcomer_cut_inside_its_replay_gets_the_rest() -> None:
    hub = Hub()
    for n in range(10):
        hub.publish("t", n)
    client = await opened(hub, replay=5)
    opening = await client.next()
    await client.close()
    client = await opened(hub, "t", opening.id, replay=5)
    assert names(await client.take(6)) == ["stream-open", "5", "6", "7", "8", "9"]
    await client.close()


async def test_the_id_comes_from_the_header_or_the_query_or_the_caller() -> None:
    hub = Hub()
    ids = [await hub.publish("t", n) for n in range(4)]
    for url, header, argument, first in [
        (f"/?last_event_id={ids[1]}", None, None, "2"),
        (f"/?lastEventId={ids[2]}", None, None, "3"),
        (f"/?x=1&lastEventId={ids[2]}&last_event_id={ids[0]}", None, None, "1"),
        (f"/?last_event_id={ids[0]}", ids[2], None, "3"),
        (f"/?last_event_id={ids[0]}", ids[1], ids[2], "3"),
    ]:
        async with connect(hub.endpoint("t", last_event_id=argument), url, last_event_id=header) as client:
            assert (await client.next()).data == first


async def test_a_headers_bytes_are_read_as_utf_8() -> None:
    hub = Hub()
    client = await opened(hub, "t", "café ☕")
    assert (await client.take(2))[1].json()["requested"] == "café ☕"
    await client.close()


async def test_subscribing_directly_resumes_too() -> None:
    hub = Hub()
    first = await hub.publish("t", 1)
    hub.publish("t", 2)
    stream = hub.subscribe("t", last_event_id=first)
    assert stream.recovered is True
    wire = b""
    async with asyncio.timeout(PATIENCE):
        while b"data: 2\n" not in wire:
            wire += await anext(stream)
    assert b"data: 1\n" not in wire


async def test_a_newcomer_that_asks_for_everything_learns_that_the_beginning_is_gone() -> None:
    hub = Hub()
    hub.topic("job:*", history=3)
    hub.publish("job:1", {"done": 1})
    app = hub.endpoint("job:1", replay="all")
    async with connect(app, "/", control=True) as client:
        assert [event.data for event in await client.take(2)] == ["", '{"done":1}']
    for done in range(2, 6):
        hub.publish("job:1", {"done": done})
    async with connect(app, "/", control=True) as client:
        opened = await client.next()
        assert (opened.event, opened.json()) == ("stream-open", {"complete": False})
        assert [event.json() for event in await client.take(3)] == [{"done": n} for n in (3, 4, 5)]
        await client.silent(0)
        assert client.last_event_id.endswith("-5")
    async with connect(hub.endpoint("job:2", replay="all"), "/", control=True) as client:
        assert (await client.next()).data == ""
