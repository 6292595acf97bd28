"""An app one worker of which produces for all, by the lifespan of docs/scaling-out.md."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from held import stand_still
from sse_hub import Hub

hub = Hub(os.environ["SSE_HUB_URL"])


async def tick(publish: Callable[..., Any]) -> None:
    while True:
        stand_still()
        await publish("t", os.getpid())
        await asyncio.sleep(0.02)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    ticker = asyncio.create_task(hub.once("ticker", tick))
    print("lifespan started", flush=True)
    yield
    ticker.cancel()
    await hub.aclose()


app = FastAPI(lifespan=lifespan)
