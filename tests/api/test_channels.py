"""Channels: what is published has the type of an event, and OpenAPI says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from pydantic import BaseModel, Field
from sse_hub import Hub, InvalidEvent
from sse_hub.testing import connect
from typing_extensions import TypedDict


class Tick(BaseModel):
    """A price."""

    symbol: str
    price: float = Field(gt=0, serialization_alias="Price")


class BigTick(Tick):
    """A tick with more in it."""

    volume: int


class Halt(BaseModel):
    """The market stands still."""

    why: str | None = None


class Tree(BaseModel):
    """A model that contains itself."""

    name: str
    children: list[Tree] = []


class Place(TypedDict):
    """A plain type."""

    x: int


@dataclass
class Point:
    """Another one."""

    x: int


async def test_a_value_is_published_as_the_event_of_its_type() -> None:
    hub = Hub()
    prices = hub.channel("prices", tick=Tick, halt=Halt)
    app = FastAPI()

    @app.get("/prices", response_class=prices.response_class, responses=prices.responses)
    async def stream() -> Any:
        return prices.response(replay="all")

    prices.publish(Tick(symbol="gold", price=1.5))
    prices.publish(Halt(why="noon"), retry=10, comment="why not")
    prices.publish(BigTick(symbol="gold", price=2, volume=3))
    prices.publish({"symbol": "tin", "price": 3.0}, event="tick")  # type: ignore[arg-type]
    async with connect(app, "/prices") as client:
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = await client.take(4)
    assert [(event.event, event.json()) for event in events] == [
        ("tick", {"symbol": "gold", "Price": 1.5}),
        ("halt", {"why": "noon"}),
        ("tick", {"symbol": "gold", "Price": 2.0}),
        ("tick", {"symbol": "tin", "Price": 3.0}),
    ]


async def test_plain_types_name_their_events_too() -> None:
    hub = Hub()
    events = {"count": int, "names": list[str], "place": Place, "point": Point}
    channel: Any = hub.channel("t", events)
    app = FastAPI()
    app.get("/t", response_class=channel.response_class)(lambda: channel.response(replay="all"))
    for value in (1, ["a"], {"x": 1}, Point(2)):
        channel.publish(value)
    async with connect(app, "/t") as client:
        found = [(event.event, event.json()) for event in await client.take(4)]
    assert found == [("count", 1), ("names", ["a"]), ("place", {"x": 1}), ("point", {"x": 2})]
    with pytest.raises(TypeError, match=r"channel 't' has no event for a str: 'count', 'names', 'place'"):
        channel.publish("text")


async def test_a_key_keeps_the_newest_value() -> None:
    hub = Hub()
    prices = hub.channel("prices", tick=Tick)
    for symbol, price in (("gold", 1), ("tin", 2), ("gold", 3)):
        prices.publish(Tick(symbol=symbol, price=price), key=symbol)
    async with connect(hub.endpoint("prices", replay="all"), "/") as client:
        found = [event.json() for event in await client.take(2)]
    assert [(value["symbol"], value["Price"]) for value in found] == [("tin", 2), ("gold", 3)]


def test_what_breaks_a_rule_is_not_published() -> None:
    hub = Hub()
    prices: Any = hub.channel("prices", {"tick": Tick, "other-tick": Tick, "halt": Halt})
    with pytest.raises(TypeError, match=r"several events for a Tick: 'tick', 'other-tick'; name one with"):
        prices.publish(Tick(symbol="gold", price=1))
    with pytest.raises(InvalidEvent, match=r"event 'tick': price: Input should be greater than 0, not -1"):
        prices.publish({"symbol": "gold", "price": -1}, event="tick")
    with pytest.raises(InvalidEvent, match="channel 'prices' has no event 'tock', only 'tick', 'other-tick'"):
        prices.publish(Tick(symbol="gold", price=1), event="tock")
    changed = Halt()
    changed.why = 5  # type: ignore[assignment]
    with pytest.raises(InvalidEvent, match=r"(?s)channel 'prices', event 'halt': .*why.*int"):
        prices.publish(changed)
    assert hub.stats()["published"] == 0


@pytest.mark.parametrize("name", ["", "a\nb", "a\x85", "open", "error", "stream-tick"])
def test_a_name_that_no_event_may_have_is_refused_at_once(name: str) -> None:
    hub = Hub()
    with pytest.raises(InvalidEvent):
        hub.publish("t", 1, event=name)
    with pytest.raises(ValueError, match="channel 't': the name of an event"):
        hub.channel("t", {name: int})


def test_a_channel_needs_a_topic_and_events() -> None:
    hub = Hub()
    with pytest.raises(TypeError, match="channel 't' needs at least one event"):
        hub.channel("t")
    with pytest.raises(TypeError, match="topic is a str, not list"):
        hub.channel(["t"], tick=Tick)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="topic"):
        hub.channel("", tick=Tick)


async def test_a_family_has_a_channel_for_each_topic() -> None:
    hub = Hub()
    rooms = hub.channels("room:{id}:{part}!", halt=Halt)
    with pytest.raises(InvalidEvent, match="channel 'room:7:a!' has no event 'tick', only 'halt'"):
        rooms(id=7, part="a").publish(Halt(), event="tick")
    async with connect(hub.endpoint(["room:7:a!", "room:7:b:c!"]), "/") as client:
        rooms(id=7, part="a").publish(Halt(why="noon"))
        rooms(id="8", part="a").publish(Halt(why="another topic"))
        rooms(part="b:c", id=7).publish(Halt(why="night"))
        assert [(await client.next()).json() for _ in range(2)] == [{"why": "noon"}, {"why": "night"}]
    assert "room:7:a!" in repr(rooms(id=7, part="a"))
    assert repr(rooms) == "<Channels 'room:{id}:{part}!': 'halt'>"


def test_a_family_gives_no_topic_to_two_of_its_members() -> None:
    rooms: Any = Hub().channels("room:{id}:{part}", halt=Halt)
    with pytest.raises(ValueError, match="id='7:a' contains ':', or ends as it begins"):
        rooms(id="7:a", part="b")
    threads: Any = Hub().channels("{id}::{part}", halt=Halt)
    assert threads(id="7", part=":a").topic == "7:::a"
    with pytest.raises(ValueError, match="other values could give the same topic"):
        threads(id="7:", part="a")
    with pytest.raises(ValueError, match="id must not be empty"):
        rooms(id="", part="b")
    with pytest.raises(ValueError, match="control character"):
        rooms(id="7", part="a\n")
    for names in ({}, {"id": "7"}, {"id": "7", "part": "a", "more": "b"}):
        with pytest.raises(TypeError, match="take id=…, part=…, not"):
            rooms(**names)
    for value in (None, 1.5, True, b"7"):
        with pytest.raises(TypeError, match="id is a str or an int, not"):
            rooms(id=value, part="a")


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("room", "has no {name}"),
        ("room:{id", "brace"),
        ("room:id}", "brace"),
        ("room:{}", "not a name"),
        ("room:{a b}", "not a name"),
        ("room:{id!r}", "not a name"),
        ("room:{id}:{id}", "twice"),
        ("room:{a}{b}", "between two names"),
        ("room*:{id}", "patterns set retention"),
    ],
)
def test_a_pattern_that_keeps_topics_not_apart_is_refused(pattern: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Hub().channels(pattern, halt=Halt)
    with pytest.raises(TypeError, match="pattern is a str, not int"):
        Hub().channels(7, halt=Halt)  # type: ignore[arg-type]


def test_openapi_describes_the_streams_of_a_family_like_one() -> None:
    events: Any = {"tick": Tick, "halt": Halt}
    hub = Hub()
    one, family = hub.channel("t", events), hub.channels("t:{id}", events)
    assert family.responses == one.responses
    assert family.response_class is one.response_class


def described(channel: Any) -> dict[str, Any]:
    app = FastAPI()
    app.openapi_version = "3.2.0"
    app.get("/t", response_class=channel.response_class, responses=channel.responses)(lambda: None)
    document = app.openapi()
    validate(document)
    return document


def test_openapi_describes_each_event_as_fastapi_describes_its_own() -> None:
    from fastapi.sse import EventSourceResponse  # newer than the oldest FastAPI

    app = FastAPI()

    @app.get("/own", response_class=EventSourceResponse)
    async def own() -> Any:
        yield Halt()

    document = described(Hub().channel("prices", tick=Tick, halt=Halt))
    content = document["paths"]["/t"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    [tick, halt, control] = content["text/event-stream"]["itemSchema"]["oneOf"]
    [like] = app.openapi()["paths"]["/own"]["get"]["responses"]["200"]["content"].values()
    assert set(halt["properties"]) == set(like["itemSchema"]["properties"])
    assert halt["properties"]["id"] == like["itemSchema"]["properties"]["id"]
    assert (tick["properties"]["event"]["const"], tick["required"]) == ("tick", ["event", "data"])
    assert tick["properties"]["data"]["contentSchema"]["properties"]["Price"]["exclusiveMinimum"] == 0
    assert "stream-reset" in control["properties"]["event"]["enum"]
    assert content["text/event-stream"]["schema"]["anyOf"] == [
        {"$ref": "#/components/schemas/Tick"},
        {"$ref": "#/components/schemas/Halt"},
    ]


def test_openapi_describes_models_that_contain_themselves_and_plain_types() -> None:
    document = described(Hub().channel("t", {"tree": Tree, "count": int}))  # type: ignore[dict-item]
    content = document["paths"]["/t"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    tree = content["itemSchema"]["oneOf"][0]["properties"]["data"]["contentSchema"]
    assert tree["properties"]["children"]["items"] == {"$ref": "#/components/schemas/Tree"}
    assert "Tree" in document["components"]["schemas"]
    assert content["schema"]["type"] == ["integer", "object"]
