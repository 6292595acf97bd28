"""Each kind of stream that leaves its server, for servers started from the command line.

The app says at its end what became of its streams, so that each of several workers can be asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from hub_streams import add_streams
from sse_hub import Hub

logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(name)s %(message)s")
hub = Hub(grace=0.1)


def say(line: str) -> None:
    """In one write: the lines of several processes do not mix."""
    os.write(1, f"{line}\n".encode())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    say("lifespan started")
    yield
    stats = hub.stats()
    say(f"{os.getpid()} handed off {stats['hand_offs']}, stayed {stats['stayed']}")


app = FastAPI(lifespan=lifespan)
app.add_route("/endpoint", hub.endpoint("t"))
add_streams(app, hub)
