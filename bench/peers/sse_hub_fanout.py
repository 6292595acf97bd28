"""sse-hub on the portable path: one hub, one publish call."""

from typing import Any

from fastapi import FastAPI, Response
from sse_hub import Hub

from bench.peers.common import Publisher

app = FastAPI()
hub = Hub()


@app.get("/events")
async def events() -> Response:
    return hub.response("bench")


publisher = Publisher(lambda data: hub.publish("bench", raw_data=data))
bytes_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data), encode=True)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publisher.run(n, rate, bytes, batch)


@app.post("/publish-bytes")
async def publish_bytes(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await bytes_publisher.run(n, rate, bytes, batch)


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": hub.count()}


@app.get("/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}
