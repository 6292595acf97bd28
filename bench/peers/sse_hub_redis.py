"""sse-hub over Redis: the app of `sse_hub_fanout`, with a broker."""

from typing import Any

from fastapi import FastAPI, Response
from sse_hub import Hub, Publication

from bench.peers.common import Publisher
from bench.peers.redis_cpu import URL, with_redis_cpu

app = FastAPI()
hub = Hub(URL)


@app.get("/events")
async def events() -> Response:
    return hub.response("bench")


last: Publication


def send(data: str) -> None:
    global last
    last = hub.publish("bench", raw_data=data)


publisher = Publisher(send)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    async def publishing() -> dict[str, Any]:
        answer = await publisher.run(n, rate, bytes, batch)
        await last
        return answer

    return await with_redis_cpu(publishing)


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": hub.count()}


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}
