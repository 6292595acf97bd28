"""sse-hub over Redis: the app of `sse_hub_fanout`, with a broker."""

from typing import Any

from sse_hub import Hub, Publication

from bench.peers.common import Publisher
from bench.peers.redis_cpu import URL, with_redis_cpu
from bench.peers.sse_hub_app import serving

hub = Hub(URL)
app = serving(hub)
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
