"""Publishing: from anywhere, anything, to a topic, to all, to one."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import threading
import uuid
from typing import Any

import pydantic
import pytest
from sse_hub import Hub
from sse_hub.event import JSONServerSentEvent, ServerSentEvent
from sse_hub.testing import Event, connect
from waiting import PATIENCE


async def test_the_loop_itself_publishes() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        published = hub.publish("t", {"n": 1}, event="tick")
        assert await client.next() == Event("tick", '{"n":1}', published.id or "")


async def test_plain_threads_publish() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        threads = [
            threading.Thread(target=lambda n=n: [hub.publish("t", [n, i]) for i in range(50)])
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        events = await client.take(400, PATIENCE)
        for thread in threads:
            thread.join()
    got = [event.json() for event in events]
    for n in range(8):
        assert [i for m, i in got if m == n] == list(range(50)), "one thread's events keep their order"
    numbers = [int(event.id.rpartition("-")[2]) for event in events]
    assert numbers == sorted(set(numbers))


def test_every_loop_gets_what_any_loop_publishes_in_one_order() -> None:
    hub = Hub()
    ready, orders = threading.Barrier(4), {}

    async def one(name: int) -> None:
        async with connect(hub.endpoint("t"), "/") as client:
            await asyncio.to_thread(ready.wait)
            for i in range(25):
                hub.publish("t", [name, i])
                await asyncio.sleep(0)
            orders[name] = [event.data for event in await client.take(100, PATIENCE)]

    threads = [threading.Thread(target=lambda n=n: asyncio.run(one(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(orders) == 4
    assert orders[0] == orders[1] == orders[2] == orders[3]
    assert len(set(orders[0])) == 100


class Colour(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    price: decimal.Decimal
    at: datetime.datetime


class Note(pydantic.BaseModel):
    text: str


@dataclasses.dataclass
class Row:
    id: uuid.UUID
    tags: set[str]


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
KEY = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "null"),
        ("", '""'),
        ("a\nb\r\né🦀", '"a\\nb\\r\\né🦀"'),
        ("\u2028a\u2029é\x85", '"\\u2028a\\u2029é\\u0085"'),
        ({"“\u2028”": ["€\x84", "\u2027"]}, '{"“\\u2028”":["€\x84","\u2027"]}'),
        (Note(text="a\u2028\u2029\x85é"), '{"text":"a\\u2028\\u2029\\u0085é"}'),
        (True, "true"),
        (12345678901234567890123, "12345678901234567890123"),
        (0.1, "0.1"),
        ({"a": [1, {"b": None}]}, '{"a":[1,{"b":null}]}'),
        ((1, 2), "[1,2]"),
        (Model(price=decimal.Decimal("1.50"), at=MOMENT), '{"price":"1.50","at":"2026-01-02T03:04:05Z"}'),
        (Row(KEY, {"x"}), f'{{"id":"{KEY}","tags":["x"]}}'),
        (MOMENT, '"2026-01-02T03:04:05+00:00"'),
        (KEY, f'"{KEY}"'),
        (decimal.Decimal("5"), "5"),
        (Colour.RED, '"red"'),
    ],
)
async def test_data_goes_out_as_compact_json(data: Any, text: str) -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", data)
        assert (await client.next()).data == text


@pytest.mark.parametrize(
    "raw", ["", "plain", "two\nlines", "a\r\nb\rc", "\u2028\x85\x0b\x0c", " led", "\0", "data: x\n\nevent: y"]
)
async def test_raw_data_goes_out_as_it_is(raw: str) -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", raw_data=raw)
        hub.publish("t", raw_data=raw.encode())
        for event in await client.take(2):
            assert event.event == "message"
            assert event.data == raw.replace("\r\n", "\n").replace("\r", "\n")
        await client.silent(0)


async def test_comment_and_retry_go_along() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/", comments=True) as client:
        await client.next()
        hub.publish("t", 1, retry=1500, comment="two\nlines")
        hub.publish("t", comment="alone")
        assert [event.data for event in await client.take(2)] == ["two", "lines"]
        assert (await client.next()).retry == 1500
        assert client.retry == 1500
        alone = await client.next()
        assert (alone.is_comment, alone.data) == (True, "alone")


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1},
        [1],
        (1,),
        {1},
        True,
        b"x",
        bytearray(b"x"),
        Colour.RED,
        Row(KEY, {"x"}),
        Note(text="x"),
        object(),
    ],
    ids=lambda data: type(data).__name__,
)
async def test_pythons_notation_of_a_server_sent_events_data_is_refused(data: Any) -> None:
    hub = Hub()
    subscription = hub.subscribe("t")
    event = ServerSentEvent(data, event="e")
    for publish in (
        lambda: hub.publish("t", event),
        lambda: hub.broadcast(event),
        lambda: hub.send(subscription.id, event),
        lambda: subscription.send(event),
    ):
        with pytest.raises(
            TypeError, match=rf"text, not {type(data).__name__}: for JSON publish the data itself"
        ):
            publish()
    assert hub.stats()["published"] == 0


@pytest.mark.parametrize("data", [7, 1.5, KEY, MOMENT, decimal.Decimal("1.50"), ValueError("text")])
async def test_data_that_str_makes_readable_is_a_server_sent_events_text(data: Any) -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", ServerSentEvent(data))
        assert (await client.next()).data == str(data)


async def test_fastapi_s_events_mean_what_they_mean_there() -> None:
    from fastapi.sse import ServerSentEvent  # newer than the oldest FastAPI

    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", ServerSentEvent(data={"a": "é"}, event="fast", retry=5, comment="c"))
        hub.publish("t", ServerSentEvent(raw_data="as it is"))
        got = [(event.event, event.data, event.retry) for event in await client.take(2)]
    assert got == [("fast", '{"a":"é"}', 5), ("message", "as it is", None)]


async def test_server_sent_events_mean_what_they_mean_at_home() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", ServerSentEvent("text\nlines", event="ours", retry=6))
        hub.publish("t", ServerSentEvent(1.5))
        hub.publish("t", JSONServerSentEvent({"a": 1}, event="json"))
        got = [(event.event, event.data, event.retry) for event in await client.take(3)]
    assert got == [
        ("ours", "text\nlines", 6),
        ("message", "1.5", None),
        ("json", '{"a":1}', None),
    ]


async def test_broadcast_reaches_everybody_in_order_with_the_topics() -> None:
    hub = Hub()
    async with connect(hub.endpoint("a"), "/") as a, connect(hub.endpoint(()), "/") as none:
        hub.publish("a", 1)
        everybody = await hub.broadcast("news", event="all")
        hub.publish("a", 2)
        assert [event.data for event in await a.take(3)] == ["1", '"news"', "2"]
        assert await none.next() == Event("all", '"news"', everybody)
        await none.silent(0)
        for client in (a, none):
            await client.reconnect()
            await client.silent(0)
            await client.reconnect(everybody)
        assert (await a.next()).data == "2"
        await none.silent(0)


async def test_send_reaches_one_in_order_without_an_id_and_is_not_replayed() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as one, connect(hub.endpoint("t"), "/") as other:
        (target,) = [it for it in hub.subscribers() if it != hub.subscribers()[0]] or [None]
        before = await hub.publish("t", 1)
        assert target is not None
        sent = hub.send(target.id, "psst", event="private", retry=9, comment="c")
        assert await sent is None
        assert await target.send("again") is None
        hub.publish("t", 2)
        heard = [await one.take(2), await other.take(2)]
        private = one if heard[0][1].data == '"psst"' else other
        public = other if private is one else one
        assert [event.data for event in heard[[one, other].index(public)]] == ["1", "2"]
        assert heard[[one, other].index(private)][1] == Event("private", '"psst"', before, 9)
        assert [event.data for event in await private.take(2)] == ['"again"', "2"]
        await private.reconnect(before)
        assert (await private.next()).data == "2"
        await private.silent(0)
        hub.send(target.id, "too late")
        hub.send("c-nobody", "never there")
        assert hub.stats()["undeliverable"] == 2


async def test_kick_by_id_and_by_user_after_what_was_published() -> None:
    hub = Hub()
    reasons: list[tuple[str | None, str]] = []

    @hub.on_disconnect
    def gone(subscription: Any, reason: str) -> None:
        reasons.append((subscription.user, reason))

    ann = [await connect(hub.endpoint("t", user="ann"), "/") for _ in range(2)]
    bob = await connect(hub.endpoint("t", user="bob"), "/")
    hub.publish("t", "last words")
    assert hub.disconnect(user="ann", reason="banned") == 2
    hub.publish("t", "after")
    for client in ann:
        assert [event.data for event in await client.rest()] == ['"last words"']
    assert [event.data for event in await bob.take(2)] == ['"last words"', '"after"']
    (left,) = hub.subscribers()
    assert hub.disconnect(id=left.id) == 1
    assert await bob.rest() == []
    assert hub.disconnect(id=left.id) == 0
    assert hub.disconnect(user="nobody") == 0
    assert sorted(reasons) == [("ann", "banned"), ("ann", "banned"), ("bob", "kicked")]
    for client in (*ann, bob):
        await client.close()
    with pytest.raises(TypeError, match="id= or user="):
        hub.disconnect()
    with pytest.raises(TypeError, match="id= or user="):
        hub.disconnect(id="c-1", user="ann")


async def test_a_publication_is_known_at_once() -> None:
    hub = Hub()
    publication = hub.publish("t", 1)
    assert publication.done()
    assert publication.id == publication.result() == publication.result(timeout=0) == await publication
    assert isinstance(publication.id, str)
    assert publication.id in repr(publication)
    epoch, _, number = publication.id.rpartition("-")
    assert (epoch, number) == (hub.stats()["epoch"], "1")
