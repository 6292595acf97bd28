"""Sources of runs that a test opens step by step, and what a watcher of a run receives."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sse_hub import Hub
from sse_hub.testing import connect


class Gate:
    """A source that a test opens step by step."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.calls = 0

    async def source(self, *given: Any) -> AsyncIterator[Any]:
        self.calls += 1
        for value in given:
            yield value
        try:
            while (step := await self.steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed.set()


class ThreadGate:
    """A def generator that waits in its thread for each step."""

    def __init__(self) -> None:
        self.steps: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.waits, self.closed = threading.Event(), threading.Event()
        self.threads: set[threading.Thread] = set()

    def source(self, *given: Any) -> Iterator[Any]:
        try:
            for value in given:
                self.threads.add(threading.current_thread())
                yield value
            self.waits.set()
            while (step := self.steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.threads.add(threading.current_thread())
            self.closed.set()


async def fails() -> AsyncIterator[int]:
    yield 1
    raise RuntimeError("secret")


def fails_in_a_thread() -> Iterator[int]:
    yield 1
    raise RuntimeError("secret")


async def transcript(hub: Hub, name: str, last_event_id: str | None = None, format: Any = None) -> list[Any]:
    """The data of every event that a watcher gets, to the end of its stream."""
    async with connect(
        hub.follow(name, format=format), "/", last_event_id=last_event_id, control=True
    ) as client:
        got = []
        async for event in client:
            if event.event not in (":", "stream-open"):
                got.append(event.data if event.event == "message" else f"{event.event} {event.data}")
        return got


def end(state: str) -> str:
    return f'stream-end {{"state":"{state}"}}'


async def one() -> AsyncIterator[int]:
    yield 1
