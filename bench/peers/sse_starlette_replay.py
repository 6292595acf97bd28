"""sse-starlette with what its users write to let clients resume: the last events in a deque, with numbers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Header
from sse_starlette import EventSourceResponse

from bench.peers.common import Publisher

app = FastAPI()
clients: set[asyncio.Queue[tuple[int, str]]] = set()
history: deque[tuple[int, str]] = deque(maxlen=1024)
published = 0


@app.get("/events")
async def events(last_event_id: Annotated[int | None, Header()] = None) -> EventSourceResponse:
    async def stream() -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        # Nothing is awaited between these two: no event is missed, none comes twice.
        missed = [] if last_event_id is None else [event for event in history if event[0] > last_event_id]
        clients.add(queue)
        try:
            for number, data in missed:
                yield {"id": str(number), "data": data}
            while True:
                number, data = await queue.get()
                yield {"id": str(number), "data": data}
        finally:
            clients.discard(queue)

    return EventSourceResponse(stream())


def send(data: str) -> None:
    global published
    published += 1
    history.append((published, data))
    for queue in clients:
        queue.put_nowait((published, data))


publisher = Publisher(send)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publisher.run(n, rate, bytes, batch)


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": len(clients)}
