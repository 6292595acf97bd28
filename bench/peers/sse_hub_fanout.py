"""sse-hub on the portable path: one hub, one publish call."""

from typing import Any

from sse_hub import Hub

from bench.peers.common import Publisher
from bench.peers.sse_hub_app import serving

hub = Hub()
app = serving(hub)
publisher = Publisher(lambda data: hub.publish("bench", raw_data=data))
# Ten keys, one after the other.
values_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data, key=data.partition(" ")[0][-1]))
bytes_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data), encode=True)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publisher.run(n, rate, bytes, batch)


@app.post("/publish-values")
async def publish_values(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    values_publisher.next = publisher.next
    result = await values_publisher.run(n, rate, bytes, batch)
    publisher.next = values_publisher.next
    return result


@app.post("/publish-bytes")
async def publish_bytes(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await bytes_publisher.run(n, rate, bytes, batch)
