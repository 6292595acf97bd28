"""Before a server is timed it must deliver: checked with a parser that is not the benchmark's."""

import asyncio
import time
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

CLIENTS = 3
EVENTS = 5
SIZE = 200


class WrongEvents(Exception):
    """The server did not deliver what was published; it cannot be compared."""


def check(events: list[ServerSentEvent], first: int, n: int) -> None:
    """Exactly `n` events, numbered from `first`, stamped just now, of the right size."""
    if len(events) != n:
        raise WrongEvents(f"{len(events)} events instead of {n}")
    for seq, event in enumerate(events, first):
        number, stamp, padding = event.data.split(" ")
        age = time.monotonic_ns() - int(stamp)
        if int(number) != seq or len(event.data) != SIZE or padding.strip("x") or not 0 <= age < 60e9:
            raise WrongEvents(f"event {seq} is {event.data!r}")


async def _collect(
    client: httpx.AsyncClient, path: str, n: int | None, last_event_id: str | None = None
) -> list[ServerSentEvent]:
    """The first `n` events of a stream, or all of it; the server's own `stream-…` events are left out."""
    events: list[ServerSentEvent] = []
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with aconnect_sse(client, "GET", path, headers=headers) as source:
        async for event in source.aiter_sse():
            if event.data and not event.event.startswith("stream-"):
                events.append(event)
            if len(events) == n:
                break
    return events


async def _await_count(client: httpx.AsyncClient, wanted: int) -> None:
    for _ in range(500):
        if (await client.get("/count")).json()["count"] == wanted:
            return
        await asyncio.sleep(0.02)
    raise WrongEvents(f"the server never counted {wanted} subscribers")


async def _fanout(client: httpx.AsyncClient, path: str = "/events") -> tuple[int, list[ServerSentEvent]]:
    """Events to several clients; returns the first one's number and what one client got."""
    readers = [asyncio.create_task(_collect(client, path, EVENTS)) for _ in range(CLIENTS)]
    await _await_count(client, CLIENTS)
    answer: dict[str, Any] = (
        await client.post("/publish", params={"n": EVENTS, "rate": 50, "bytes": SIZE, "batch": 1})
    ).json()
    for events in await asyncio.gather(*readers):
        check(events, answer["first"], EVENTS)
    await _await_count(client, 0)
    return answer["first"], events


async def _replay(client: httpx.AsyncClient) -> None:
    first, events = await _fanout(client)
    for seen, event in enumerate(events[:-1], 1):
        missed = await _collect(client, "/events", EVENTS - seen, event.id)
        check(missed, first + seen, EVENTS - seen)
        await _await_count(client, 0)


async def _tokens(client: httpx.AsyncClient) -> None:
    for pause in ({}, {"pause": 0}):
        params = httpx.QueryParams({"n": EVENTS, "bytes": SIZE} | pause)
        check(await _collect(client, f"/tokens?{params}", None), 0, EVENTS)


async def _waiting(client: httpx.AsyncClient) -> None:
    (event,) = await _collect(client, "/waiting", 1)
    if len(event.data) != 128:
        raise WrongEvents(f"the event is {event.data!r}")


def verify(workload: str, port: int) -> None:
    """Raise WrongEvents, or httpx's errors, unless the server does what the workload needs."""

    async def main() -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            match workload:
                case "tokens" | "runs" | "runs-redis":
                    await _tokens(client)
                case "generators" | "generators-churn":
                    await _waiting(client)
                case "replay":
                    await _replay(client)
                case "compress" | "compress-table":
                    await _fanout(client, "/events?compress=1")
                case _:
                    await _fanout(client)

    asyncio.run(main())
