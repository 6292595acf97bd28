"""An app with runs whose functions do not return when they are stopped; their hub is over files."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from announced import announced
from fastapi import FastAPI
from fastapi.responses import Response
from sse_hub import Hub

hub = Hub(os.environ["SSE_HUB_URL"], grace=1.0)


async def deaf() -> AsyncIterator[str]:
    """Takes no notice of its cancellation."""
    yield "begun"
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("not now", flush=True)


async def slow() -> AsyncIterator[str]:
    """Has a ``finally`` that waits for ever."""
    try:
        yield "begun"
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()


def blocked() -> Iterator[str]:
    """Blocks its thread."""
    yield "begun"
    threading.Event().wait()


SOURCES: dict[str, Any] = {function.__name__: function for function in (deaf, slow, blocked)}
app = FastAPI(lifespan=announced([hub]))


@app.post("/{name}")
async def start(name: str) -> Response:
    return (await hub.run(name, SOURCES[name])).response()
