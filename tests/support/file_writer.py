"""Processes that publish to a log in files and are killed."""

from __future__ import annotations

import os

from sse_hub import FileBroker, Hub

HISTORY = 2000
# Longer than a follower on a loaded machine may stand still.
MIN_AGE = 10.0


def write(url: str, name: str, record: str) -> None:
    """Publish numbers until killed; what was acknowledged goes into the file ``record``."""
    file = os.open(record, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    hub = Hub(FileBroker(url, min_age=MIN_AGE), history=HISTORY)
    number = 0
    while True:
        batch = [f"{name}-{number + n}-{'x' * (number % 300)}" for n in range(7)]
        published = [hub.publish("t", one) for one in batch]
        lines = "".join(f"{one.result()} {data}\n" for one, data in zip(published, batch, strict=True))
        os.write(file, lines.encode())
        number += len(batch)


def publish_once(url: str, data: str) -> None:
    """Publish one event, and end as a child of ``multiprocessing`` does."""
    Hub(url).publish("t", data)


def hold(url: str) -> None:
    """Subscribe and wait to be killed."""
    import asyncio

    async def wait() -> None:
        hub = Hub(url)
        stream = hub.subscribe("t")
        async for _ in stream:
            pass

    asyncio.run(wait())
