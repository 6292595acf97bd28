"""The lifespan of an app that a test runs as a server: it says when it starts and when it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from sse_hub import Hub


def announced(hubs: Iterable[Hub] = ()) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan at whose end these hubs are closed."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        print("lifespan started", flush=True)
        yield
        await asyncio.gather(*(hub.aclose() for hub in hubs))
        print("lifespan ended", flush=True)

    return lifespan
