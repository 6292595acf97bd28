"""sse-hub on the portable path: one hub, one publish call."""

from typing import Any

from sse_hub import Hub

from bench.peers.common import Publisher
from bench.peers.sse_hub_app import serving

hub = Hub()
app = serving(hub)
publisher = Publisher(lambda data: hub.publish("bench", raw_data=data))
bytes_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data), encode=True)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publisher.run(n, rate, bytes, batch)


@app.post("/publish-bytes")
async def publish_bytes(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await bytes_publisher.run(n, rate, bytes, batch)
