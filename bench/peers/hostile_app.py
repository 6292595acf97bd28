"""A hub whose endpoint trusts its clients: they name their topics and their id."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
from fastapi import FastAPI, Response
from sse_hub import Hub

EVERY = 0.01  # seconds between two ticks

hub = Hub(heartbeat=5.0)
limited = Hub(max_topics=100)
process = psutil.Process()


async def tick() -> None:
    while True:
        hub.publish("tick", time.monotonic())
        await asyncio.sleep(EVERY)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    ticker = asyncio.create_task(tick())
    print("lifespan started", flush=True)
    yield
    ticker.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/events")
async def events(topic: str = "tick", first: int = 0, topics: int = 0) -> Response:
    """``topic``, and as many ``topics`` besides as the client asks for."""
    return hub.response([topic, *(f"of:{n}" for n in range(first, first + topics))])


@app.get("/limited")
async def limited_events(topics: int) -> Response:
    """The same with a limit."""
    return limited.response(f"of:{n}" for n in range(topics))


@app.post("/fill")
async def fill(kb: int) -> None:
    """Publish ``kb`` KB to the topic ``bulk``, 1 KB every millisecond."""
    for _ in range(kb):
        hub.publish("bulk", raw_data="x" * 1000)
        await asyncio.sleep(0.001)


@app.get("/stats")
async def stats() -> dict[str, Any]:
    cpu = process.cpu_times()
    return {**hub.stats(), "rss": process.memory_info().rss, "cpu": cpu.user + cpu.system}
