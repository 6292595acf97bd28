"""Finite streams from a generator, as a language model's tokens are served, through sse_hub."""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from sse_hub import EventSourceResponse

from bench.peers.common import text

app = FastAPI()
HANDOFF = bool(os.environ.get("BENCH_GENERATOR_HANDOFF"))


async def generate(n: int, size: int, pause: float | None) -> AsyncIterator[dict[str, str]]:
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield {"data": text(seq, size)}


async def relay(n: int, size: int) -> AsyncIterator[dict[str, str]]:
    """The same from another task: each event is waited for."""
    queue: asyncio.Queue[str] = asyncio.Queue(1)

    async def produce() -> None:
        for seq in range(n):
            await queue.put(text(seq, size))

    producer = asyncio.create_task(produce())
    for _ in range(n):
        yield {"data": await queue.get()}
    await producer


async def wait() -> AsyncIterator[dict[str, str]]:
    yield {"data": text(0, 128)}
    await asyncio.Event().wait()


@app.get("/tokens")
async def tokens(
    n: int, bytes: int = 128, pause: float | None = None, queue: bool = False
) -> EventSourceResponse:
    return EventSourceResponse(relay(n, bytes) if queue else generate(n, bytes, pause), handoff=HANDOFF)


@app.get("/waiting")
async def waiting() -> EventSourceResponse:
    return EventSourceResponse(wait(), handoff=HANDOFF)
