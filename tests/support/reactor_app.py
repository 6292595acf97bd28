"""An app with a hub for servers in processes of their own, which fork, exit or run out of descriptors."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator

from announced import announced
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from handoff_app import use_up_descriptors
from sse_hub import EventSourceResponse, Hub

hub = Hub()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
app = FastAPI(lifespan=announced())


@app.get("/events")
async def events() -> Response:
    return hub.response("t")


@app.get("/publish")
async def publish(data: str) -> Response:
    hub.publish("t", data)
    paths = sorted(subscriber.path for subscriber in hub.subscribers())
    return PlainTextResponse(f"published to {'+'.join(paths)}.")


@app.get("/exhausted")
async def exhausted(left: int = 0) -> Response:
    """Use up the descriptors, except for ``left``, and open a stream."""
    use_up_descriptors(left)
    return hub.response("t")


@app.get("/stayed")
async def stayed() -> Response:
    return PlainTextResponse(f"stayed {hub.stats()['stayed']}.")


@app.get("/used-up")
async def used_up() -> Response:
    """Allow no new descriptor, not even with a number that becomes free."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    return PlainTextResponse("used up.")


@app.get("/plain-events")
async def plain_events() -> Response:
    """A stream for clients that are told by the status."""
    return hub.response("t", control=False)


@app.get("/generator")
async def generator(kind: str) -> EventSourceResponse:
    """A generator that says when it has been closed; of ``kind`` async or def, waiting or with too much."""

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "tick"
                if "waits" in kind:
                    await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.001)
            print(f"closed: {kind}.", flush=True)

    def blocking() -> Iterator[str]:
        try:
            while True:
                yield "tick"
        finally:
            print(f"closed: {kind}.", flush=True)

    return EventSourceResponse(blocking() if "def" in kind else content(), handoff="let go" in kind or None)


@app.get("/restored")
async def restored() -> Response:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return PlainTextResponse("restored.")


@app.get("/fork")
async def fork() -> Response:
    """Fork a child that stays alive, as a worker of a pool does."""
    child = os.fork()
    if child == 0:
        hub.count()  # in the child an empty hub of its own
        time.sleep(60)  # noqa: ASYNC251
        os._exit(0)
    return PlainTextResponse(f"child {child}.")
