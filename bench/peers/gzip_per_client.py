"""Starlette's StreamingResponse behind its GZipMiddleware, which compresses each stream for itself."""

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from bench.peers import starlette_stream
from bench.peers.common import Publisher, table, tick


async def stream() -> AsyncIterator[bytes]:
    """A first comment: the middleware holds the head back until something of the body comes."""
    yield b":\n\n"
    async for event in starlette_stream.stream():
        yield event


async def events(request: Request) -> StreamingResponse:
    return StreamingResponse(stream(), media_type="text/event-stream")


makers = {"/publish": starlette_stream.publisher}
makers["/publish-ticks"] = Publisher(starlette_stream.send, make=tick)
makers["/publish-tables"] = Publisher(starlette_stream.send, make=table)


async def publish(request: Request) -> JSONResponse:
    given, publisher = request.query_params, makers[request.url.path]
    publisher.next = max(each.next for each in makers.values())
    batch = int(given.get("batch", "1"))
    return JSONResponse(
        await publisher.run(int(given["n"]), float(given["rate"]), int(given["bytes"]), batch)
    )


app = Starlette(
    routes=[
        Route("/events", events),
        *(Route(path, publish, methods=["POST"]) for path in makers),
        Route("/count", starlette_stream.count),
    ],
    # Its default leaves event streams alone.
    middleware=[Middleware(GZipMiddleware, minimum_size=0, exclude_content_types=())],
)
