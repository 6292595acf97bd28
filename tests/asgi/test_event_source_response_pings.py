"""``EventSourceResponse``: pings between the events, on a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted import Connection, Endless, done
from sse_hub import EventSourceResponse, Hub, ServerSentEvent
from sse_hub.sse import SendTimeoutError
from waiting import PATIENCE


async def test_pings_come_with_the_streams_line_ends() -> None:
    source = Endless()
    connection = Connection()
    task = connection.start(EventSourceResponse(source.events(), ping=0.01, sep="\n"))
    await connection.until(b": ping - ")
    connection.left.set()
    await done(task)
    line = connection.body.split(b"\n\n")[1]
    assert line.startswith(b": ping - 2")
    assert line.endswith(b"+00:00")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (ServerSentEvent(comment="mine"), b": mine\r\n\r\n"),
        ({"event": "ping"}, b"event: ping\n\n"),
        ("text", b"data: text\n\n"),
        (b": raw\n\n", b": raw\n\n"),
    ],
)
async def test_ping_message_factory(made: Any, expected: bytes) -> None:
    connection = Connection()
    response = EventSourceResponse(Endless().events(), ping=0.01, sep="\n", ping_message_factory=lambda: made)
    task = connection.start(response)
    await connection.until(expected * 2)
    connection.left.set()
    await done(task)


async def test_a_failing_ping_message_factory_ends_the_stream() -> None:
    source = Endless()

    def fail() -> ServerSentEvent:
        raise LookupError("factory")

    with pytest.raises(LookupError, match="factory"):
        await Connection().run(EventSourceResponse(source.events(), ping=0.01, ping_message_factory=fail))
    assert source.notes == ["cancelled", "cleaned up"]


async def test_send_timeout_of_a_ping() -> None:
    source = Endless()
    connection = Connection()

    async def block_pings(body: bytes) -> None:
        if body.startswith(b": ping"):
            await asyncio.Event().wait()

    connection.on_body = block_pings
    with pytest.raises(SendTimeoutError):
        await connection.run(EventSourceResponse(source.events(), ping=0.01, send_timeout=0.01))
    assert source.notes == ["cancelled", "cleaned up"]


async def test_a_ping_and_an_event_never_share_the_line() -> None:
    # send() is entered by one of the two at a time, however slow it is.
    inside = 0

    async def slow(body: bytes) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.003)
        inside -= 1

    async def events() -> AsyncIterator[int]:
        for number in range(30):
            await asyncio.sleep(0.002)
            yield number

    connection = Connection()
    connection.on_body = slow
    await connection.run(EventSourceResponse(events(), ping=0.001, sep="\n"))
    assert b": ping" in connection.body
    assert connection.body.count(b"data: ") == 30


async def test_a_client_that_leaves_during_a_ping_ends_the_stream() -> None:
    source = Endless()
    connection = Connection()
    pinging = asyncio.Event()

    async def block_pings(body: bytes) -> None:
        if body.startswith(b": ping"):
            pinging.set()
            # What a server's send does when the client is gone.
            await connection.left.wait()

    connection.on_body = block_pings
    task = connection.start(EventSourceResponse(source.events(), ping=0.01))
    async with asyncio.timeout(PATIENCE):
        await pinging.wait()
    connection.left.set()
    await done(task)
    assert source.notes == ["cancelled", "cleaned up"]


async def test_a_hubs_subscription_has_the_hubs_heartbeats_only() -> None:
    with Hub(heartbeat=None) as hub:
        connection = Connection()
        response = EventSourceResponse(hub.subscribe("prices"))
        assert response.ping_interval == 15
        assert not response._pings
        assert EventSourceResponse(hub.subscribe("prices"), ping=3)._pings
        task = connection.start(response)
        await connection.until(b"stream-open")
        hub.publish("prices", {"a": 1})
        await connection.until(b'data: {"a":1}\n')
        connection.left.set()
        await done(task)
        assert hub.count() == 0
