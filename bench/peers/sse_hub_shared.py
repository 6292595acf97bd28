"""sse-hub over a broker, in any number of workers: one hub, whose `/count` is that of all workers."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from sse_hub import Hub, Publication

from bench.peers.common import Publisher

# Bursts of 500 follow each other at once, on cores that the clients share: some of them wait for a client.
hub = Hub(os.environ["BENCH_BROKER"], capacity=4096)
app = FastAPI()
# Events are numbered on, whichever worker publishes.
NUMBER = Path(os.environ["BENCH_NUMBER"])
# The benchmark waits until all workers have started.
(NUMBER.parent / f"started.{os.getpid()}").touch()
last: Publication


@app.get("/events")
async def events() -> Response:
    return hub.response("bench")


@app.get("/count")
async def count() -> dict[str, int]:
    return {"count": (await hub.presence()).count}


def send(data: str) -> None:
    global last
    last = hub.publish("bench", raw_data=data)


async def written() -> None:
    await last


publisher = Publisher(send, after=written)


def next_number() -> int:
    return int(NUMBER.read_text()) if NUMBER.exists() else 0


def note_number(number: int) -> None:
    NUMBER.write_text(str(number))


@app.post("/publish")
async def publish(n: int, rate: float, bytes: int, batch: int = 1) -> dict[str, Any]:
    publisher.next = next_number()
    answer = await publisher.run(n, rate, bytes, batch)
    note_number(publisher.next)
    return answer
