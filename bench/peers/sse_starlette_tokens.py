"""Finite streams from a generator, as a language model's tokens are served, through sse_starlette."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from bench.peers.common import text

app = FastAPI()


async def generate(n: int, size: int, pause: float | None) -> AsyncIterator[dict[str, str]]:
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield {"data": text(seq, size)}


@app.get("/tokens")
async def tokens(n: int, bytes: int = 128, pause: float | None = None) -> EventSourceResponse:
    return EventSourceResponse(generate(n, bytes, pause))
