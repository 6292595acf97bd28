"""An app for thousands of clients, in a server of its own; it tells what is left of them."""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from sse_hub import Hub, Subscription

resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

hub = Hub(grace=float(os.environ["GRACE"]))
gone: dict[str, float] = {}  # when on_disconnect was called, for clients with a name
stop = threading.Event()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    print("lifespan started", flush=True)
    yield
    stop.set()
    print("lifespan ended", flush=True)


app = FastAPI(lifespan=lifespan)


@hub.on_disconnect
def left(subscriber: Subscription, reason: str) -> None:
    if subscriber.user is not None:
        gone[subscriber.user] = time.monotonic()


@app.get("/events")
async def events(topics: str = "t", user: str | None = None) -> Response:
    # What may stay behind: something of the application's, and something that is called at the end.
    return hub.response(topics.split(","), user=user, info={"of": "the application"}, max_age=3600)


@app.get("/publish")
async def publish(topic: str = "t", n: int = 1, size: int = 0) -> dict[str, Any]:
    for number in range(n):
        hub.publish(topic, {"n": number, "fill": "x" * size})
    return hub.stats()


@app.get("/broadcast")
async def broadcast(every: float) -> dict[str, Any]:
    """From now on, an event to everybody every so many seconds."""

    def run() -> None:
        while not stop.wait(every):
            hub.publish("t", {"fill": "x" * 100})

    threading.Thread(target=run, daemon=True).start()
    return hub.stats()


@app.get("/gone")
async def when_gone() -> dict[str, float]:
    return gone


@app.get("/left")
async def what_is_left() -> dict[str, Any]:
    """Descriptors, objects of Python by type, resident bytes, and the hub's own numbers."""
    gc.collect()
    return {
        "stats": hub.stats(),
        "count": hub.count(),
        "descriptors": Counter(where(number) for number in os.listdir("/proc/self/fd")),
        "objects": Counter(type(each).__qualname__ for each in gc.get_objects()),
        "resident": resident(),
    }


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def where(number: str) -> str:
    """What kind of thing a descriptor is."""
    try:
        return os.readlink(f"/proc/self/fd/{number}").partition(":")[0]
    except OSError:
        return "closed"
