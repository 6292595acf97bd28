"""Starlette's StreamingResponse with bytes encoded once: what a careful user writes without a library."""

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from bench.peers.common import Publisher, text

clients: set[asyncio.Queue[bytes]] = set()


async def stream() -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    clients.add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        clients.discard(queue)


async def events(request: Request) -> StreamingResponse:
    return StreamingResponse(stream(), media_type="text/event-stream")


async def generate(n: int, size: int, pause: float | None) -> AsyncIterator[bytes]:
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield f"data: {text(seq, size)}\n\n".encode()


async def relay(n: int, size: int) -> AsyncIterator[bytes]:
    """The same from another task: each event is waited for."""
    queue: asyncio.Queue[str] = asyncio.Queue(1)

    async def produce() -> None:
        for seq in range(n):
            await queue.put(text(seq, size))

    producer = asyncio.create_task(produce())
    for _ in range(n):
        yield f"data: {await queue.get()}\n\n".encode()
    await producer


async def tokens(request: Request) -> StreamingResponse:
    given = request.query_params
    if "queue" in given:
        body = relay(int(given["n"]), int(given.get("bytes", "128")))
        return StreamingResponse(body, media_type="text/event-stream")
    pause = float(given["pause"]) if "pause" in given else None
    body = generate(int(given["n"]), int(given.get("bytes", "128")), pause)
    return StreamingResponse(body, media_type="text/event-stream")


def send(data: str) -> None:
    frame = f"data: {data}\n\n".encode()
    for queue in clients:
        queue.put_nowait(frame)


publisher = Publisher(send)


async def publish(request: Request) -> JSONResponse:
    given = request.query_params
    batch = int(given.get("batch", "1"))
    return JSONResponse(
        await publisher.run(int(given["n"]), float(given["rate"]), int(given["bytes"]), batch)
    )


async def count(request: Request) -> JSONResponse:
    return JSONResponse({"count": len(clients)})


async def ping(request: Request) -> JSONResponse:
    return JSONResponse({"pong": True})


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/tokens", tokens),
        Route("/publish", publish, methods=["POST"]),
        Route("/count", count),
        Route("/ping", ping),
    ]
)
