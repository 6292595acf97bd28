"""An app whose streams carry values of keys, for servers in processes of their own."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from announced import announced
from fastapi import FastAPI, Request
from fastapi.responses import Response
from sse_hub import Hub

NOTSENT_LOWAT = 25  # TCP_NOTSENT_LOWAT of Linux, which Python's `socket` does not name

hub = Hub(history=0)
app = FastAPI(lifespan=announced([hub]))


@app.get("/")
async def stream() -> Response:
    return hub.response("t")


@app.post("/")
async def publish(request: Request) -> None:
    hub.publish("t", await request.json(), key="k")


@app.delete("/")
async def end() -> int:
    return sum(hub.disconnect(id=stream.id) for stream in hub.subscribers())


@app.get("/limited")
def limited() -> int:
    """How many of the process's connections hold few unsent bytes."""
    count = 0
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            sock = socket.socket(fileno=int(name))
            try:
                count += sock.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT) != 0
            finally:
                sock.detach()
    return count
