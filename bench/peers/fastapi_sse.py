"""FastAPI's own server-sent events: a path operation that yields, and a queue per client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

from bench.peers.common import Publisher, text

app = FastAPI()
clients: set[asyncio.Queue[str]] = set()


@app.get("/events", response_class=EventSourceResponse)
async def events() -> AsyncIterator[ServerSentEvent]:
    queue: asyncio.Queue[str] = asyncio.Queue()
    clients.add(queue)
    try:
        while True:
            yield ServerSentEvent(raw_data=await queue.get())
    finally:
        clients.discard(queue)


@app.get("/tokens", response_class=EventSourceResponse)
async def tokens(n: int, bytes: int = 128, pause: float | None = None) -> AsyncIterator[ServerSentEvent]:
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield ServerSentEvent(raw_data=text(seq, bytes))


def send(data: str) -> None:
    for queue in clients:
        queue.put_nowait(data)


publisher = Publisher(send)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publisher.run(n, rate, bytes, batch)


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": len(clients)}


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}
