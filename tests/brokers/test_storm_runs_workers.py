"""The storm of runs over a broker: watchers come, leave, return with their id to any of three workers, and
stop runs at random, while workers are killed and replaced. Some read as EventSource does, some in a format.

No watcher misses an event, receives one twice, or hangs. All watchers of a run see the same events and the
same end, whichever workers they were at, and so does a process that starts when all is over, of every run
that the log still has. The full storm writes more than the log keeps: some workers begin with a trimmed log.
``make test-storms`` is the full storm; ``STORM_SEED`` chooses another.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from connections import connected
from run_sources import transcript
from servers import ServerProcess, uvicorn
from sse_hub import Hub
from sse_hub._testing.event_parser import Event, EventParser
from sse_hub.testing import connect
from stores import Store
from waiting import PATIENCE, until_async

SEED = int(os.environ.get("STORM_SEED", "20261129"))
RUNS = int(os.environ.get("STORM_RUNS", "8"))
WATCHERS = int(os.environ.get("STORM_WATCHERS", "24"))
KILLS = int(os.environ.get("STORM_KILLS", "1"))
WORKERS, EVENTS = 3, 60
# What the log keeps (runs_app.py), and how many runs may have begun after one and ended before it.
LOG, BESIDE = 20_000, 30
FORMATS = (None, "ai-sdk", "openai")
# What a stream in a format says of its end, but for a run that is done.
SAID = {
    "the run failed": "failed",
    "the run was stopped": "stopped",
    "the run was lost: its process ended": "lost",
}


class Watcher:
    """A client of one run after the other."""

    def __init__(self, number: int, happened: Counter[str]) -> None:
        self.dice = random.Random(f"{SEED}-{number}")
        self.happened = happened
        self.begin()

    def begin(self) -> None:
        """Turn to one of the newest runs, which grow older with each watcher that does so."""
        self.happened["watched"] += 1
        newest = self.happened["watched"] // 4
        self.run = f"run {SEED} {self.dice.randrange(max(newest - 4, 0), newest + 1)}"
        self.format = self.dice.choice(FORMATS)
        self.id = ""
        self.seen: list[int] = []
        self.is_aborted = False
        self.end: str | None = None

    def see(self, event: Event) -> None:
        self.id = event.id
        if self.format is not None and not event.data.isdigit():
            assert event.event == "message", event
            self.see_end(event)
        elif event.event == "message":
            assert event.json() == len(self.seen), f"{self.run}: {event.json()} after {self.seen[-3:]}"
            self.seen.append(event.json())
        elif event.event == "stream-end":
            self.end = event.json()["state"]
        else:
            assert event.event == "stream-open", event
            assert event.data == "", event

    def see_end(self, event: Event) -> None:
        """What a format has for it: ``[DONE]``, an error, or an abort before ``[DONE]``."""
        if event.data == "[DONE]":
            self.end = "stopped" if self.is_aborted else "done"
            return
        assert not self.is_aborted, event
        match self.format, event.json():
            case "ai-sdk", {"type": "abort"}:
                self.is_aborted = True
            case "ai-sdk", {"type": "error", "errorText": text}:
                self.end = SAID[text]
            case "openai", {"error": {"message": text, "code": code}}:
                assert SAID[text] == code
                self.end = code
            case _:
                raise AssertionError(event)

    async def visit(self, storm: Storm) -> None:
        """One connection, from its request to its end."""
        self.is_aborted = False
        worker = self.dice.choice(storm.workers)
        path = self.run.replace(" ", "%20")
        target = f"GET /runs/{path}?" if self.seen else f"POST /storm/{path}?total={EVENTS}&"
        target += f"format={self.format}" if self.format else ""
        id = f"Last-Event-ID: {self.id}\r\n" if self.id else ""
        async with connected(worker.port) as (reader, writer):
            self.happened["visits"] += 1
            writer.write(f"{target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{id}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                # A worker that has just begun may not have reached its broker yet.
                assert head.startswith(b"HTTP/1.1 503"), (self.run, self.seen[-1:], head)
                return
            await self.read(reader, storm)

    async def read(self, reader: asyncio.StreamReader, storm: Storm) -> None:
        parser = EventParser(self.id)
        while self.end is None:
            size = int(await reader.readuntil(b"\r\n"), 16)
            chunk = await reader.readexactly(size + 2)
            assert size, f"{self.run}: a stream ended without a word"
            parser.feed(chunk[:-2])
            while parser.events:
                if (event := parser.events.popleft()).is_comment:
                    continue
                self.see(event)
                if self.dice.random() < 0.03:
                    self.happened["left"] += 1
                    return
                if self.dice.random() < 0.001:
                    await storm.stop(self.run, self.dice)

    async def watch(self, storm: Storm) -> None:
        """Some runs to their ends, until the storm is over."""
        while True:
            while self.end is None:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self.visit(storm)
                await asyncio.sleep(self.dice.random() * 0.05)
            storm.ends.setdefault(self.run, set()).add((self.end, len(self.seen)))
            self.happened[self.end] += 1
            self.happened[f"read as {self.format or 'EventSource'}"] += 1
            if storm.is_calm.is_set():
                return
            self.begin()


class Storm:
    """The workers, and what the watchers saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_calm = asyncio.Event()
        self.ends: dict[str, set[tuple[str, int]]] = {}
        self.workers: list[ServerProcess] = []
        self.kills = 0

    async def start(self) -> ServerProcess:
        command = uvicorn("runs_app:app", "--no-access-log")
        command.env |= {"SSE_HUB_URL": self.url}
        return await asyncio.to_thread(ServerProcess, command)

    async def kill(self, place: int) -> None:
        """A worker dies, and another takes its place."""
        self.kills += 1
        await asyncio.to_thread(self.workers[place].kill)
        self.workers[place] = await self.start()

    async def stop(self, run: str, dice: random.Random) -> None:
        path = run.replace(" ", "%20")
        with suppress(ConnectionError):
            async with connected(dice.choice(self.workers).port) as (_, writer):
                writer.write(f"DELETE /runs/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await writer.drain()


async def comes(condition: Callable[[], bool], seconds: float) -> bool:
    with suppress(TimeoutError):
        await until_async(condition, seconds)
    return condition()


async def rage(storm: Storm, happened: Counter[str]) -> None:
    dice = random.Random(SEED)
    storm.workers = [await storm.start() for _ in range(WORKERS)]
    async with asyncio.timeout((4 + KILLS / 4) * PATIENCE), asyncio.TaskGroup() as group:
        for number in range(WATCHERS):
            group.create_task(Watcher(number, happened).watch(storm))
        for _ in range(KILLS):
            before = happened["visits"]
            await until_async(lambda before=before: happened["visits"] > before + 2 * WATCHERS)
            await storm.kill(dice.randrange(WORKERS))
        # A worker that is killed may have had no run.
        while not await comes(lambda: happened["lost"] > 0, 15.0):
            await storm.kill(dice.randrange(WORKERS))
        # The full storm has runs of every kind; the small one may have none that was stopped.
        await until_async(
            lambda: happened["done"] > 0 and len(storm.ends) >= RUNS,
            (3 + KILLS / 4) * PATIENCE,
        )
        storm.is_calm.set()


async def what_is_left(storm: Storm, late: Hub) -> Counter[str]:
    """Compare what a late process has of each run with what the watchers saw. Returns the runs by state."""
    found: Counter[str] = Counter()
    newest = max(int(run.split()[-1]) for run in storm.ends)
    for run, ends in storm.ends.items():
        assert len(ends) == 1, f"{run} ended as {ends}"
        ((state, count),) = ends
        assert state != "done" or count == EVENTS
        async with connect(late.follow(run), "/", control=True) as client:
            opening, *events, ending = [event async for event in client if not event.is_comment]
        assert ending.json() == {"state": state}
        told = [event.json() for event in events]
        if opening.data:
            assert opening.json() == {"complete": False}
            later = newest - int(run.split()[-1]) + BESIDE
            assert later * (EVENTS + 10) > LOG, f"the log must have all of {run}, of {newest}"
            found["trimmed"] += 1
        assert told == list(range(count))[count - len(told) if opening.data else 0 :]
        if not opening.data:
            *formatted, last = await transcript(late, run, format="openai")
            assert formatted == [str(number) for number in told]
            assert (last == "[DONE]") == (state == "done")
        found[state] += 1
    return found


@pytest.mark.timeout(900)
async def test_no_watcher_misses_doubles_or_hangs_although_workers_die(store: Store) -> None:
    happened: Counter[str] = Counter()
    storm, began = Storm(store.url), time.monotonic()
    try:
        await rage(storm, happened)
        async with Hub(store.url, history=LOG) as late:
            runs = await what_is_left(storm, late)
    finally:
        for worker in storm.workers:
            worker.kill()
    assert all(happened[f"read as {format or 'EventSource'}"] for format in FORMATS)
    figures = {"watchers": WATCHERS, "kills": storm.kills, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps({"runs": runs, **figures, **happened}))
