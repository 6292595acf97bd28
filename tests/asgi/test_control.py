"""Streams without the hub's own events, as clients other than EventSource read them, on both paths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse
from redis_server import RedisServer
from sse_hub import GapError, Hub
from sse_hub.testing import connect
from waiting import until
from wire import WAYS, Site, only

SITES = tuple(WAYS)


def test_only_own_events_and_comments_go_out(site: Site) -> None:
    hub = site.hub(heartbeat=0.1, reconnect=(2.0, 2.0))
    last = hub.publish("t", "past").id
    site.app = hub.endpoint("t", control=False)
    with site.raw() as stream:
        # In the block of the first event, which brings them to the client.
        until(lambda: hub.count() == 1)
        until(lambda: hub.stats()["heartbeats"] >= 2)
        only(hub).send("own")
        assert stream.event().id == last
        assert stream.parser.retry == 2000
        hub.publish("other", 1)
        beats = hub.stats()["heartbeats"]
        until(lambda: hub.stats()["heartbeats"] >= beats + 2)
        hub.publish("t", "live")
        assert stream.event().json() == "live"
        only(hub).close()
        assert stream.rest() == []
        assert stream.ended


def test_httpx_sse_sees_no_empty_event(site: Site) -> None:
    hub = site.hub(heartbeat=0.05)
    for control in (False, True):
        site.app = hub.endpoint("t", control=control)
        with (
            httpx.Client(timeout=30, trust_env=False) as client,
            connect_sse(client, "GET", f"http://127.0.0.1:{site.port}/") as source,
        ):
            until(lambda: hub.count() == 1)
            events = source.iter_sse()
            if control:
                assert next(events).event == "stream-open"
            hub.publish("t", 1)
            assert next(events).data == "1"
            beats = hub.stats()["heartbeats"] + 3
            until(lambda beats=beats: hub.stats()["heartbeats"] >= beats)
            hub.publish("t", 2)
            assert next(events).data == "2"
        until(lambda: hub.count() == 0)


def status(site: Site, id: str) -> int:
    """The status of a response to a client that comes back."""
    with httpx.stream(
        "GET", f"http://127.0.0.1:{site.port}/", headers={"Last-Event-ID": id}, timeout=30, trust_env=False
    ) as response:
        return response.status_code


def test_a_gap_that_is_known_before_the_head_is_409(site: Site) -> None:
    hub = site.hub(history=2)
    first = hub.publish("t", 0).id
    for n in range(1, 6):
        last = hub.publish("t", n).id
    assert first is not None
    assert last is not None
    site.app = hub.endpoint("t", control=False)
    for id in (first, "no id of ours"):
        assert status(site, id) == 409
    assert status(site, last) == 200
    until(lambda: hub.count() == 0)
    with site.raw(last_event_id=last) as stream:
        until(lambda: hub.count() == 1)
        hub.publish("t", 6)
        assert stream.event().json() == 6


def test_a_gap_that_comes_later_breaks_the_body_off(site: Site) -> None:
    hub = site.hub(capacity=4, overflow="drop_newest")
    ended: list[Any] = []
    hub.on_disconnect(lambda subscriber, reason: ended.append(reason))
    site.app = hub.endpoint("t", control=False)
    with site.raw(receive_buffer=4096) as stream:
        until(lambda: hub.count() == 1)
        n = 0
        while hub.stats()["dropped"] == 0:
            hub.publish("t", raw_data=f"{n}" + "x" * 60_000)
            n += 1
        seen = stream.rest()
        assert not stream.ended
        assert all(event.event == "message" for event in seen)
    until(lambda: bool(ended))
    assert ended[0].kind == "gap"


def test_no_room_is_503(site: Site) -> None:
    hub = site.hub(max_subscribers=0)
    site.app = hub.endpoint("t", control=False)
    assert status(site, "") == 503


async def test_an_iteration_raises() -> None:
    hub = Hub(history=1)
    old = hub.publish("t", 1).id
    for n in range(3):
        hub.publish("t", n)
    subscription = hub.subscribe("t", last_event_id=old, control=False)
    assert subscription.recovered is False
    chunks: list[bytes] = []

    async def read() -> None:
        chunks.extend([chunk async for chunk in subscription])

    with pytest.raises(GapError):
        await read()
    assert b"event:" not in b"".join(chunks)
    assert subscription.closed is not None
    assert subscription.closed.kind == "gap"
    assert hub.count() == 0


async def test_over_a_broker_it_is_asked_first(redis: RedisServer) -> None:
    hub, other = (Hub(redis.url, name="control") for _ in range(2))
    try:
        first = await hub.publish("t", 1)
        await hub.publish("t", 2)
        app: Callable[..., Any] = other.endpoint("t", control=False)
        async with connect(app, "/", last_event_id=first) as client:
            assert client.status_code == 200
            assert (await client.next(timeout=10)).json() == 2
        async with connect(app, "/", last_event_id="1-0") as client:
            assert client.status_code == 409
    finally:
        await asyncio.gather(hub.aclose(), other.aclose())
