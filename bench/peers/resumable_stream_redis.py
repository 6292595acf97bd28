"""The package resumable-stream: Redis knows who produces, and passes chunks on.

With clients given, because its short form (`redis_url=`) raises TypeError in this version.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from resumable_stream import create_resumable_stream_context  # type: ignore[import-untyped, import-not-found, unused-ignore]
from resumable_stream.redis_adapter import RedisPublisher, RedisSubscriber  # type: ignore[import-untyped, import-not-found, unused-ignore]

from bench.peers.grouped import generate
from bench.peers.redis_cpu import URL

publisher, subscriber = RedisPublisher(URL), RedisSubscriber(URL)
numbers = count()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await publisher.connect()
    await subscriber.connect()
    app.state.context = create_resumable_stream_context(publisher=publisher, subscriber=subscriber)
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/tokens")
async def tokens(n: int, bytes: int = 128, pause: float | None = None) -> StreamingResponse:
    async def answer() -> AsyncIterator[str]:
        async for token in generate(n, bytes, pause):
            yield f"data: {token}\n\n"

    stream = await app.state.context.create_new_resumable_stream(f"answer:{next(numbers)}", answer)
    return StreamingResponse(stream, media_type="text/event-stream")
