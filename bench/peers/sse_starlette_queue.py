"""sse-starlette as its documentation shows it: a queue per client, filled by whoever publishes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from bench.peers.common import Publisher

app = FastAPI()
clients: set[asyncio.Queue[str]] = set()


@app.get("/events")
async def events() -> EventSourceResponse:
    async def stream() -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        clients.add(queue)
        try:
            while True:
                yield {"data": await queue.get()}
        finally:
            clients.discard(queue)

    return EventSourceResponse(stream())


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
