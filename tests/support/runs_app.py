"""An app whose hub is on Redis (``SSE_HUB_URL``), and whose runs yield as many words as requested.

As a program it takes part in races: ``python -m runs_app NUMBER`` starts the same runs as others at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from typing import Any

from announced import announced
from fastapi import FastAPI
from fastapi.responses import Response
from held import stand_still
from sse_hub import Hub, Run

hub = Hub(os.environ["SSE_HUB_URL"], history=20_000)
said: dict[str, int] = {}
calls: list[str] = []
runs: dict[str, Run] = {}
finished: list[list[str]] = []
app = FastAPI(lifespan=announced([hub]))


async def words(name: str, total: int) -> AsyncIterator[str]:
    calls.append(name)
    try:
        for word in range(total):
            while word >= said.get(name, 0) and not stand_still():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            yield f"{name} {word}"
    finally:
        print(f"finally of {name}", flush=True)


@app.post("/runs/{name}")
async def start(name: str, total: int = 10, keep: float = 300.0, format: Any = None) -> Response:
    run = runs[name] = await hub.run(name, words, name, total, keep=keep, on_finish=finish)
    return run.response(format=format)


def finish(run: Run, events: list[str]) -> None:
    finished.append([run.id, run.state])


@app.get("/runs/{name}/end")
async def end(name: str) -> list[str]:
    return [await runs[name].wait(), runs[name].state]


class Failed(Exception):
    """What some of the storm's sources raise."""


async def numbers(name: str, total: int) -> AsyncIterator[int]:
    """Numbers at the storm's pace. One source in six fails somewhere."""
    dice = random.Random(name)
    fails_at = dice.randrange(total) if dice.random() < 1 / 6 else None
    for number in range(total):
        if number == fails_at:
            raise Failed
        if dice.random() < 0.7:
            await asyncio.sleep(dice.random() * 0.1)
        if number % 10 == 0:
            hub.broadcast("no watcher receives this", event="notice")
        yield number


@app.post("/storm/{name}")
async def storm(name: str, total: int, format: Any = None) -> Response:
    # However long the storm lasts, a run that its watchers come back to is there.
    return (await hub.run(name, numbers, name, total, keep=3600)).response(format=format)


@app.get("/runs/{name}")
async def follow(name: str, format: Any = None) -> Response:
    return hub.follow(name, format=format)


@app.delete("/runs/{name}")
async def stop(name: str) -> bool:
    return await hub.stop(name)


@app.put("/runs/{name}")
async def say(name: str, count: int) -> None:
    said[name] = count


@app.get("/here")
async def here() -> dict[str, Any]:
    return {
        "calls": calls,
        "finished": finished,
        "pid": os.getpid(),
        "watchers": hub.count(),
        "runs": hub.stats()["runs"],
    }


async def race(count: int) -> None:
    async def once(name: str) -> AsyncIterator[int]:
        calls.append(name)
        yield os.getpid()

    await hub.publish("warm", 1)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    limit = asyncio.Semaphore(25)

    async def one(name: str) -> str:
        async with limit:
            run = await hub.run(name, once, name)
            return await run.wait()

    states = await asyncio.gather(*(one(f"race {n}") for n in range(count)))
    print(json.dumps({"won": calls, "states": states}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await hub.aclose()


if __name__ == "__main__":
    asyncio.run(race(int(sys.argv[1])))
