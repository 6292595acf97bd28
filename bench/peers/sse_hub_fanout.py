"""sse-hub on the portable path: one hub, one publish call."""

from typing import Any

from sse_hub import Hub

from bench.peers.common import Publisher, table, tick
from bench.peers.sse_hub_app import serving

hub = Hub()
app = serving(hub)
publisher = Publisher(lambda data: hub.publish("bench", raw_data=data))
# Ten keys, one after the other.
values_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data, key=data.partition(" ")[0][-1]))
ticks_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data), make=tick)
tables_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data), make=table)
bytes_publisher = Publisher(lambda data: hub.publish("bench", raw_data=data), encode=True)


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publisher.run(n, rate, bytes, batch)


async def publish_like(other: Publisher, n: int, rate: float, bytes: int, batch: int) -> dict[str, Any]:
    """Go on with another publisher's texts."""
    other.next = publisher.next
    result = await other.run(n, rate, bytes, batch)
    publisher.next = other.next
    return result


@app.post("/publish-values")
async def publish_values(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publish_like(values_publisher, n, rate, bytes, batch)


@app.post("/publish-ticks")
async def publish_ticks(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publish_like(ticks_publisher, n, rate, bytes, batch)


@app.post("/publish-tables")
async def publish_tables(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await publish_like(tables_publisher, n, rate, bytes, batch)


@app.post("/publish-bytes")
async def publish_bytes(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    return await bytes_publisher.run(n, rate, bytes, batch)
