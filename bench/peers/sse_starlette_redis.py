"""sse-starlette with redis-py: a subscription to Redis, and so a connection, for each client."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from bench.peers.common import Publisher
from bench.peers.redis_cpu import redis, with_redis_cpu

app = FastAPI()
open_streams = 0


@app.get("/events")
async def events() -> EventSourceResponse:
    async def stream() -> AsyncIterator[dict[str, str]]:
        global open_streams
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe("bench")
            subscribed = False
            try:
                async for message in pubsub.listen():
                    if message["type"] == "subscribe":
                        open_streams += 1
                        subscribed = True
                    elif message["type"] == "message":
                        yield {"data": message["data"]}
            finally:
                open_streams -= subscribed

    return EventSourceResponse(stream())


publisher = Publisher(lambda data: redis.publish("bench", data), awaits=True)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await with_redis_cpu(lambda: publisher.run(n, rate, bytes, batch))


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": open_streams}


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}
