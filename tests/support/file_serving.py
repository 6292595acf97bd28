"""Workers of a server over files, which a fork server starts within milliseconds, and which are killed."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from multiprocessing.connection import Connection

import redis_app
import uvicorn
from redis_walker import TOPICS
from sse_hub import BrokerError, FileBroker, Hub
from sse_hub.exceptions import HubClosed

# Nothing is trimmed: the log has everything that clients may have missed.
HISTORY = 1 << 20
# Numbers of a worker's events begin at a multiple of this.
NUMBERS = 1_000_000


def hub(url: str, **options: bool) -> Hub:
    """The hub of every process of the storm."""
    return Hub(FileBroker(url), history=HISTORY, heartbeat=0.5, **options)


def publish(hub: Hub, number: int, record: str) -> None:
    """Publish until the hub closes or the process is killed; what was acknowledged goes into a file."""
    dice = random.Random(number)
    file = os.open(record, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for batch in itertools.count():
        try:
            numbers = [number * NUMBERS + batch * 5 + n for n in range(5)]
            published = [hub.publish(dice.sample(TOPICS, dice.choice([1, 1, 2])), {"n": n}) for n in numbers]
            lines = [f"{one.result()} {n}\n" for one, n in zip(published, numbers, strict=True)]
        except (HubClosed, BrokerError):
            return
        os.write(file, "".join(lines).encode())
        threading.Event().wait(0.05)


def serve(url: str, number: int, record: str, ready: Connection) -> None:
    """Serve the hub's streams, and publish to it; every second worker streams portably."""
    redis_app.hubs["default"] = served = hub(url, handoff=number % 2 == 0)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ready.send(listener.getsockname()[1])
    threading.Thread(target=publish, args=(served, number, record), daemon=True).start()
    config = uvicorn.Config(redis_app.app, log_level="warning", access_log=False, http="httptools")
    uvicorn.Server(config).run(sockets=[listener])
