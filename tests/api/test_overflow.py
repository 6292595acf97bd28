"""Slow clients and bursts: which clients are cut, which are not, and how dropped events are announced."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from slow_reader import stop_reading
from sse_hub import Hub
from sse_hub.testing import Clock, EventClient, connect
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import PATIENCE


async def stuck(clock: Clock, hub: Hub, **options: Any) -> EventClient:
    """A client that has stopped reading in the middle of a write, long enough to be known as stuck."""
    client = await connect(hub.endpoint("t", **options), "/", control=True)
    assert (await client.next()).event == "stream-open"
    await stop_reading(clock, hub, client)
    return client


async def push(clock: Clock, hub: Hub, data: range, fill: str = "") -> None:
    for n in data:
        hub.publish("t", [n, fill])
    await clock.advance(0)


async def heard(client: EventClient, until: int) -> list[Any]:
    """What the client receives from here on: numbers, and announcements of dropped ones."""
    client.resume()
    assert (await client.next()).json() == "taken"
    got: list[Any] = []
    while got[-1:] != [until]:
        event = await client.next()
        got.append(event.json() if event.event == "stream-lagged" else event.json()[0])
    return got


async def test_the_default_is_to_disconnect_and_nothing_is_lost(clock: Clock) -> None:
    hub = clock.hub(capacity=5)
    reasons: list[str] = []
    hub.on_disconnect(lambda subscription, reason: reasons.append(reason))
    client = await stuck(clock, hub)
    await push(clock, hub, range(5))
    assert hub.count() == 1
    await push(clock, hub, range(5, 20))
    assert (hub.count(), reasons, hub.stats()["overflowed"]) == (0, ["overflow"], 1)
    assert client.ended, "what it does not read does not keep the server"
    await client.reconnect()
    assert [event.event for event in await client.take(2)] == ["stream-open", "message"]
    assert [event.json()[0] for event in await client.take(20)] == list(range(20))
    await client.close()


async def test_drop_oldest_says_how_much(clock: Clock) -> None:
    hub = clock.hub(capacity=5, overflow="drop_oldest")
    client = await stuck(clock, hub)
    await push(clock, hub, range(20))
    assert hub.stats()["dropped"] == 15
    assert await heard(client, 19) == [{"dropped": 15}, 15, 16, 17, 18, 19]
    await push(clock, hub, range(20, 22))
    assert [event.json()[0] for event in await client.take(2)] == [20, 21]
    await client.close()


async def test_drop_newest_says_how_much(clock: Clock) -> None:
    hub = clock.hub(capacity=5, overflow="drop_newest")
    client = await stuck(clock, hub)
    await push(clock, hub, range(20))
    assert hub.stats()["dropped"] == 15
    client.resume()
    assert (await client.next()).json() == "taken"
    assert [event.json()[0] for event in await client.take(5)] == [0, 1, 2, 3, 4]
    lagged = await client.next()
    assert (lagged.event, lagged.json()) == ("stream-lagged", {"dropped": 15})
    await push(clock, hub, range(20, 22))
    assert [event.json()[0] for event in await client.take(2)] == [20, 21]
    await client.close()


async def test_a_client_that_lagged_has_no_id_that_hides_the_loss_before_stream_lagged(clock: Clock) -> None:
    hub = clock.hub(capacity=5, overflow="drop_newest")
    client = await stuck(clock, hub)
    await push(clock, hub, range(20))
    client.resume()
    assert (await client.next()).json() == "taken"
    assert (await client.take(5))[-1].json()[0] == 4
    await client.reconnect()
    assert (await client.next()).event == "stream-open"
    assert [event.json()[0] for event in await client.take(15)] == list(range(5, 20))
    await client.close()


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2])])
async def test_the_limit_in_bytes_holds_too(clock: Clock, overflow: Any, kept: list[int]) -> None:
    hub = clock.hub(capacity=100, capacity_bytes=4000, overflow=overflow)
    client = await stuck(clock, hub)
    await push(clock, hub, range(10), "x" * 1000)
    client.resume()
    events = await client.take(5)
    assert [event.json()[0] for event in events if event.event == "message" and "x" in event.data] == kept
    assert [event.json() for event in events if event.event == "stream-lagged"] == [{"dropped": 7}]
    await client.close()


async def test_a_subscriber_may_have_its_own_terms(clock: Clock) -> None:
    hub = clock.hub(capacity=5)
    client = await stuck(clock, hub, capacity=2, overflow="drop_oldest")
    await push(clock, hub, range(10))
    assert hub.count() == 1
    assert await heard(client, 9) == [{"dropped": 8}, 8, 9]
    await client.close()


async def test_a_slow_client_delays_and_costs_nobody_else(clock: Clock) -> None:
    hub = clock.hub(capacity=5)
    client = await stuck(clock, hub)
    async with connect(hub.endpoint("t"), "/") as healthy:
        await push(clock, hub, range(100))
        assert [event.json()[0] for event in await healthy.take(100)] == list(range(100))
    await client.close()


async def test_an_unfinished_write_alone_is_within_any_limit(clock: Clock) -> None:
    """Only what waits behind it counts."""
    hub = clock.hub(capacity=1, capacity_bytes=1)
    client = await stuck(clock, hub)
    hub.publish("t", [0, "x" * 1000])
    await clock.advance(1)
    assert await heard(client, 0) == [0]
    await client.close()


class Nothing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


@pytest.mark.parametrize("middlewares", [0, 5])
async def test_a_burst_never_cuts_a_healthy_client(middlewares: int) -> None:
    hub = Hub(capacity=16, capacity_bytes=1000)
    app = Starlette(
        routes=[Route("/", hub.endpoint("t"))], middleware=[Middleware(Nothing) for _ in range(middlewares)]
    )
    clients = [await connect(app, "/") for _ in range(10)]
    for n in range(10_000):
        hub.publish("t", n)
    for client in clients:
        assert [event.json() for event in await client.take(10_000, PATIENCE)] == list(range(10_000))
    assert hub.stats()["overflowed"] == 0
    for client in clients:
        await client.close()


@pytest.mark.parametrize("middlewares", [3])
async def test_bursts_from_a_thread_while_the_loop_is_busy_never_cut_a_healthy_client(
    middlewares: int,
) -> None:
    hub = Hub(capacity=16)
    app = Starlette(
        routes=[Route("/", hub.endpoint("t"))], middleware=[Middleware(Nothing) for _ in range(middlewares)]
    )
    clients = [await connect(app, "/") for _ in range(50)]
    done = threading.Event()

    def publish() -> None:
        for n in range(4000):
            hub.publish("t", n)
            if n % 100 == 0:
                done.wait(0.001)

    thread = threading.Thread(target=publish)
    thread.start()
    for client in clients:
        assert [event.json() for event in await client.take(4000, PATIENCE)] == list(range(4000))
    thread.join()
    assert hub.stats()["overflowed"] == 0
    for client in clients:
        await client.close()
