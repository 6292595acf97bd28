"""The app that the tests of stopping run under every server: endless streams of each kind, and a lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sse_hub._serving import DisconnectWatch, serving
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

BIG = b": " + b"x" * 65_536 + b"\n\n"


class RawStream(Response):
    """The least a stream can be: ``chunk`` every ``interval`` seconds, and a goodbye when stopped."""

    grace = 1.0

    def __init__(self, chunk: bytes, interval: float) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.chunk = chunk
        self.interval = interval
        self.ending = asyncio.Event()

    def stop(self) -> None:
        self.ending.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        watch = DisconnectWatch(receive, self.stop)
        with serving(scope, receive, self):
            watch.start()
            try:
                while not self.ending.is_set():
                    await send({"type": "http.response.body", "body": self.chunk, "more_body": True})
                    try:
                        async with asyncio.timeout(self.interval):
                            await self.ending.wait()
                    except TimeoutError:
                        pass
                await send({"type": "http.response.body", "body": b"data: goodbye\n\n"})
            finally:
                watch.close()
        print("stream ended", flush=True)


async def raw(request: Request) -> Response:
    return RawStream(b"data: tick\n\n", 0.2)


async def raw_flood(request: Request) -> Response:
    return RawStream(BIG, 0)


async def plain(request: Request) -> Response:
    return PlainTextResponse("ok")


async def slow(request: Request) -> Response:
    await asyncio.sleep(float(request.query_params["seconds"]))
    return PlainTextResponse("slow but whole")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    print("lifespan started", flush=True)
    yield
    print("lifespan ended", flush=True)


async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def streams() -> list[Route]:
    return [Route("/raw", raw), Route("/raw/flood", raw_flood)]


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/plain", plain),
        Route("/slow", slow),
        Mount("/middleware", routes=streams(), middleware=[Middleware(BaseHTTPMiddleware, dispatch=passes)]),
        *streams(),
    ],
)
