"""An app with a hub for servers in processes of their own, which fork, exit or run out of descriptors."""

from __future__ import annotations

import os
import resource
import time

from announced import announced
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from handoff_app import use_up_descriptors
from sse_hub import Hub

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
