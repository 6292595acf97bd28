"""sse-starlette with redis-py: a subscription to Redis for the process, which fills a queue per client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from bench.peers.common import Publisher
from bench.peers.redis_cpu import redis, with_redis_cpu

clients: set[asyncio.Queue[str]] = set()


async def listen(subscribed: asyncio.Event) -> None:
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("bench")
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                subscribed.set()
            elif message["type"] == "message":
                for queue in clients:
                    queue.put_nowait(message["data"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    subscribed = asyncio.Event()
    listener = asyncio.create_task(listen(subscribed))
    await subscribed.wait()
    yield
    listener.cancel()


app = FastAPI(lifespan=lifespan)


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


publisher = Publisher(lambda data: redis.publish("bench", data), awaits=True)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await with_redis_cpu(lambda: publisher.run(n, rate, bytes, batch))


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": len(clients)}


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}
