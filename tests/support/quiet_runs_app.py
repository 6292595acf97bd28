"""An app that drives runs of a hub over files (``SSE_HUB_URL``) and opens no stream.

It does not close its hub: what becomes of the runs when the server stops is up to the hub.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sse_hub import Hub, Run

hub = Hub(os.environ["SSE_HUB_URL"])


async def answer(name: str) -> AsyncIterator[str]:
    try:
        yield "begun"
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print(f"finally of {name}", flush=True)


async def save(run: Run, events: list[Any]) -> None:
    await asyncio.sleep(0.05)
    print(f"saved {run.id}: {run.state} {events}", flush=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await start("of the lifespan")
    print("lifespan started", flush=True)
    yield
    print("lifespan ended", flush=True)


app = FastAPI(lifespan=lifespan)


@app.post("/runs/{name}")
async def start(name: str) -> str:
    return (await hub.run(name, answer, name, on_finish=save)).state
