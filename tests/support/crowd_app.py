"""An app for thousands of clients in a server of its own, which reports what they leave behind."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI, Response
from sse_hub import Hub, Subscription, _core

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
    # Two things that could stay behind: an object of the application, and a timer.
    return hub.response(topics.split(","), user=user, info={"of": "the application"}, max_age=3600)


@app.get("/publish")
async def publish(topic: str = "t", n: int = 1, size: int = 0) -> dict[str, Any]:
    for number in range(n):
        hub.publish(topic, {"n": number, "fill": "x" * size})
    return hub.stats()


@app.get("/broadcast")
async def broadcast(every: float) -> dict[str, Any]:
    """From now on, publish an event to everybody every so many seconds."""

    def run() -> None:
        while not stop.wait(every):
            hub.publish("t", {"fill": "x" * 100})

    threading.Thread(target=run, daemon=True).start()
    return hub.stats()


@app.get("/gone")
async def when_gone() -> dict[str, float]:
    return gone


@app.get("/count")
async def count() -> int:
    return hub.count()


@app.get("/left")
async def what_is_left() -> dict[str, Any]:
    """Descriptors by kind, objects of Python, instances of the extension's classes, memory in bytes."""
    gc.collect()
    # Each instance refers to its class, which was created at run time; the collector does not know them all.
    classes = [*filter(lambda one: isinstance(one, type), vars(_core).values())]
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    return {
        "stats": hub.stats(),
        "descriptors": Counter(where(number) for number in os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
        "instances": {one.__name__: sys.getrefcount(one) for one in classes},
        "allocated": mallinfo().uordblks + mallinfo().hblkhd,
        "resident": resident(),
    }


class MallInfo(ctypes.Structure):
    """The C library's record of its allocations: those of Rust, and Python's larger ones."""

    _fields_: ClassVar = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def where(number: str) -> str:
    """The kind of a descriptor."""
    try:
        return os.readlink(f"/proc/self/fd/{number}").partition(":")[0]
    except OSError:
        return "closed"
