"""An app whose clients leave, in a process that collects no garbage, and what remains of them."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from sse_hub import EventSourceResponse, Hub, Subscription
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

hub = Hub(max_subscribers=20)
lively = Hub(heartbeat=0.1)
polls: list[asyncio.Task[None]] = []
reasons: list[str] = []
finished: list[str] = []


class Local:
    """A variable of a generator's."""


locals_alive: WeakSet[Local] = WeakSet()


@hub.on_disconnect
def left(subscription: Subscription, reason: str) -> None:
    reasons.append(reason)


async def streaming(request: Request) -> Response:
    return StreamingResponse(hub.subscribe("t"), media_type="text/event-stream")


async def subscribed() -> AsyncIterator[bytes]:
    subscription = hub.subscribe("t")
    async for chunk in subscription:
        yield chunk


async def named(request: Request) -> Response:
    return EventSourceResponse(subscribed())


async def named_streaming(request: Request) -> Response:
    return StreamingResponse(subscribed(), media_type="text/event-stream")


async def generator(request: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        local = Local()
        locals_alive.add(local)
        while True:
            yield "tick"
            await asyncio.sleep(0.02)

    return EventSourceResponse(events())


def note(where: str) -> None:
    thread = "loop" if threading.current_thread() is threading.main_thread() else "worker"
    finished.append(f"{where} in a {thread}")
    print(f"finally: {where} in a {thread}", flush=True)


async def sync(request: Request) -> Response:
    def events() -> Iterator[str]:
        try:
            while True:
                yield "tick"
                time.sleep(0.02)
        finally:
            print("finally begins", flush=True)
            time.sleep(float(request.query_params.get("seconds", 0)))
            note("sync")

    return EventSourceResponse(events())


async def sync_blocked(request: Request) -> Response:
    def events() -> Iterator[str]:
        yield "tick"
        yield queue.SimpleQueue[str]().get()

    return EventSourceResponse(events())


async def begin_poll(request: Request) -> None:
    """Have a task beside the stream take the disconnect first, as a poll for it may do by chance."""

    async def poll() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            polling.set()

    polling = asyncio.Event()
    polls.append(asyncio.create_task(poll()))
    await polling.wait()


async def polled_hub(request: Request) -> Response:
    await begin_poll(request)
    return lively.response("t")


async def polled_generator(request: Request) -> Response:
    await begin_poll(request)

    async def events() -> AsyncIterator[str]:
        local = Local()
        locals_alive.add(local)
        yield "tick"
        await asyncio.Event().wait()

    return EventSourceResponse(events(), ping=0.1)


async def state(request: Request) -> Response:
    return JSONResponse(
        {
            "count": hub.count() + lively.count(),
            "reasons": reasons,
            "locals": len(locals_alive),
            "finished": finished,
        }
    )


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    gc.disable()
    print("lifespan started", flush=True)
    yield


async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


routes: list[Any] = [
    Route("/streaming", streaming),
    Route("/named", named),
    Route("/named-streaming", named_streaming),
    Route("/generator", generator),
    Route("/polled/hub", polled_hub),
    Route("/polled/generator", polled_generator),
    Route("/sync", sync),
    Route("/sync/blocked", sync_blocked),
]
app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/state", state),
        Mount("/middleware", routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=passes)]),
        *routes,
    ],
)
