"""FastAPI with StreamingResponse: what requests of a generator cost without a library for events."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from bench.peers.common import text

app = FastAPI()


async def wait() -> AsyncIterator[bytes]:
    yield f"data: {text(0, 128)}\n\n".encode()
    await asyncio.Event().wait()


@app.get("/waiting")
async def waiting() -> StreamingResponse:
    return StreamingResponse(wait(), media_type="text/event-stream")
