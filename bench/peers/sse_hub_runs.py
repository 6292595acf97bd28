"""Runs of a hub, each watched by as many clients as requested."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import Response
from sse_hub import Hub, ServerSentEvent

from bench.peers.common import text
from bench.peers.grouped import Groups

app = FastAPI()
hub = Hub()
groups: Groups[None] = Groups()


async def answer(n: int, size: int, pause: float | None) -> AsyncIterator[ServerSentEvent]:
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield ServerSentEvent(text(seq, size))


@app.get("/tokens")
async def tokens(n: int, bytes: int = 128, pause: float | None = None, watchers: int = 1) -> Response:
    group, _ = await groups.join(watchers, None)
    run = await hub.run(f"answer:{group}", answer, n, bytes, pause, keep=1)
    return run.response()
