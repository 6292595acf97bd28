"""The app that tests of stopping run under every server, with endless streams of each kind and a lifespan."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sse_hub import EventSourceResponse, Hub, Subscription
from sse_hub._responses.disconnect import DisconnectWatch
from sse_hub._stopping.serving import Serving
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Events for tests that run this app in their own process.
burst_ended = threading.Event()
late_began = threading.Event()
slow_began = threading.Event()

hub = Hub()
hub.publish("ticks", raw_data="at import")  # in use before a server with --preload forks
BIG = b": " + b"x" * 65_536 + b"\n\n"


class RawStream(Response):
    """The smallest stream: ``chunk`` every ``interval`` seconds, and a goodbye when it is stopped."""

    grace = 1.0

    def __init__(self, chunk: bytes, interval: float) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.chunk = chunk
        self.interval = interval
        self.ending = asyncio.Event()

    def stop(self) -> None:
        self.ending.set()

    def finished(self) -> bool:
        return self.ending.is_set()

    def abort(self) -> None:
        self.ending.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        watch = DisconnectWatch(receive, self.stop)
        with Serving(scope, receive, self):
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


async def generated(request: Request) -> Response:
    async def ticks() -> AsyncIterator[str]:
        while True:
            yield "tick"
            await asyncio.sleep(0.05)

    return EventSourceResponse(ticks(), sep="\n")


async def generated_flood(request: Request) -> Response:
    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield BIG

    return EventSourceResponse(flood())


class Burst(Response):
    """A response that sends its body in one message, and ends long before a client has read it."""

    grace = 1.0

    def stop(self) -> None:
        pass

    def finished(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with Serving(scope, receive, self):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": BIG * 256})
        burst_ended.set()
        print("burst ended", flush=True)


async def burst(request: Request) -> Response:
    return Burst()


async def late(request: Request) -> Response:
    late_began.set()
    print("late began", flush=True)
    await asyncio.sleep(float(request.query_params["seconds"]))
    return RawStream(b"data: tick\n\n", 0.2)


async def on_hub(request: Request) -> Response:
    return hub.response("ticks")


async def on_hub_flood(request: Request) -> Response:
    return hub.response("flood", overflow="drop_oldest")


@hub.on_connect
def connected(subscriber: Subscription) -> None:
    print(f"connected through the {subscriber.path}", flush=True)


async def publish() -> None:
    """Publish ticks for clients that read, and floods that no buffer holds for clients that do not."""
    while True:
        hub.publish("ticks", raw_data="tick")
        if hub.count("flood"):
            for _ in range(16):
                hub.publish("flood", raw_data="x" * 65_536)
        await asyncio.sleep(0.05)


async def plain(request: Request) -> Response:
    return PlainTextResponse("ok")


async def slow(request: Request) -> Response:
    slow_began.set()
    await asyncio.sleep(float(request.query_params["seconds"]))
    return PlainTextResponse("slow but whole")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    print("lifespan started", flush=True)
    publisher = asyncio.create_task(publish())
    yield
    publisher.cancel()
    print("lifespan ended", flush=True)


async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def streams() -> list[Route]:
    return [
        Route("/raw", raw),
        Route("/raw/flood", raw_flood),
        Route("/generated", generated),
        Route("/generated/flood", generated_flood),
        Route("/hub", on_hub),
        Route("/hub/flood", on_hub_flood),
    ]


class Hiding:
    """A middleware behind which no part of the server can be recognised."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()

        async def pump() -> None:
            message: Message = {"type": ""}
            while message["type"] != "http.disconnect":
                message = await receive()
                messages.put_nowait(message)

        pumping = asyncio.create_task(pump())
        try:
            await self.app({**scope, "headers": list(scope["headers"])}, lambda: messages.get(), send)
        finally:
            pumping.cancel()


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/plain", plain),
        Route("/slow", slow),
        Route("/burst", burst),
        Route("/late", late),
        Mount("/hidden", routes=streams(), middleware=[Middleware(Hiding)]),
        Mount("/middleware", routes=streams(), middleware=[Middleware(BaseHTTPMiddleware, dispatch=passes)]),
        *streams(),
    ],
)
