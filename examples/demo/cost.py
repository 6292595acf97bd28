"""What a client costs: real streams to this server, first from the hub, then from sse-starlette.

The clients are another program (`crowd.py`), so this process pays for the server's side only. Off unless the
server listens on a loopback address; SSE_HUB_CROWD allows it elsewhere.
"""

import asyncio
import ctypes
import gc
import importlib
import json
import logging
import re
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel
from sse_hub import Hub

from .settings import LOOPBACK

PATIENCE = 60.0  # seconds in which they must open
ENOUGH = 100  # streams by which memory can be divided: fewer would show what the process allocates once
ROOT = Path(__file__).parent.parent.parent
TICK = re.compile(rb"^data: (.*)$", re.MULTILINE)
KINDS: tuple["Kind", ...] = ("hub", "starlette")
Kind = Literal["hub", "starlette"]

logger = logging.getLogger(__name__)


class Reading(BaseModel):
    """What the streams of one kind cost."""

    clients: int
    # Bytes of this process for each; None where the system does not tell.
    memory: float | None
    # Microseconds of this process's CPU for each event that a client got; None until some have.
    cpu: float | None = None
    # Milliseconds from a tick to the client that got it last; the median of those looked at.
    age: float | None = None


class Costs(BaseModel):
    """What pages are shown."""

    limit: int
    measuring: Kind | None = None
    hub: Reading | None = None
    starlette: Reading | None = None
    problem: str | None = None


class Meter:
    """Measures one kind of stream after the other, once at a time, and publishes what it sees."""

    def __init__(self, hub: Hub, prices: str, topic: str, limit: int, seconds: float) -> None:
        self.hub = hub
        self.prices = prices
        self.topic = topic
        self.limit = limit
        self.seconds = seconds  # for which each kind is measured once all streams are open
        self.costs = Costs(limit=limit)
        self.queues: set[asyncio.Queue[str]] = set()
        self._memory: dict[Kind, float] = {}  # of each client, as it was measured before
        self._task: asyncio.Task[None] | None = None

    def start(self, host: str, port: int) -> None:
        """Begin, unless it is measuring already."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._measure_all(host, port))

    async def stop(self) -> None:
        """Close all the streams."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def show(self) -> None:
        """Publish the readings."""
        self.hub.publish(self.topic, self.costs, event="cost")

    async def _measure_all(self, host: str, port: int) -> None:
        self.costs = Costs(limit=self.limit)
        try:
            raise_limit(self.limit)
            for kind in KINDS:
                if kind == "starlette" and not can_import("sse_starlette"):
                    self.costs.problem = "sse-starlette is not installed here."
                    break
                self.costs.measuring = kind
                self.show()
                await self._measure(kind, host, port)
        except (OSError, TimeoutError, RuntimeError) as error:
            logger.warning("the crowd could not be measured: %s", error)
            self.costs.problem = str(error) or "The streams did not open in time."
        finally:
            self.costs.measuring = None
            with suppress(Exception):
                self.show()

    async def _measure(self, kind: Kind, host: str, port: int) -> None:
        memory = free_and_measure()
        arguments = [host, str(port), f"/cost/{kind}", str(self.limit)]
        command = [sys.executable, "-m", "examples.demo.crowd", *arguments]
        pipe = asyncio.subprocess.PIPE
        crowd = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT)
        feeding = asyncio.create_task(self._feed() if kind == "starlette" else asyncio.sleep(0))
        try:
            assert crowd.stdout is not None
            await self._follow(kind, crowd.stdout, memory)
        finally:
            feeding.cancel()
            with suppress(ProcessLookupError):
                crowd.kill()
            await crowd.wait()
            for _ in range(200):  # until the server has noticed that they left
                if not self.queues:
                    break
                await asyncio.sleep(0.05)

    async def _follow(self, kind: Kind, lines: asyncio.StreamReader, memory: int | None) -> None:
        loop = asyncio.get_running_loop()
        deadline, began = loop.time() + PATIENCE, None
        ages: list[float] = []
        memory_each: float | None = None
        async with asyncio.timeout(PATIENCE + self.seconds):
            # A server that stood still while it measured has seen no tick: it goes on until two came.
            while began is None or len(ages) < 2 or loop.time() - began[0] < self.seconds:
                line = await lines.readline()
                if not line:
                    raise RuntimeError("The program that reads the streams has ended.")
                seen = json.loads(line)
                if "problem" in seen:
                    raise RuntimeError(seen["problem"])
                enough = seen["open"] >= min(ENOUGH, self.limit)
                memory_each = per_client(memory, seen["open"]) if enough else None
                if memory_each is not None:
                    # What the process kept of earlier streams, these use again: they seem to need less.
                    memory_each = max(memory_each, self._memory.get(kind, 0.0))
                reading = Reading(clients=seen["open"], memory=memory_each)
                if began is not None and seen["ticks"] > began[2]:
                    reading.cpu = (time.process_time() - began[1]) * 1e6 / (seen["ticks"] - began[2])
                    ages.append(seen["age"])
                    reading.age = statistics.median(ages)
                elif seen["open"] == self.limit:
                    began = began or (loop.time(), time.process_time(), seen["ticks"])
                elif loop.time() > deadline:
                    raise TimeoutError
                setattr(self.costs, kind, reading)
                self.show()
        if memory_each is not None:
            self._memory[kind] = memory_each

    async def _feed(self) -> None:
        """Put each tick into the queue of each client, as programs without a hub do."""
        async with self.hub.subscribe(self.prices) as stream:
            async for chunk in stream:
                for data in TICK.findall(chunk):
                    if data.startswith(b'{"number"'):
                        for queue in self.queues:
                            with suppress(asyncio.QueueFull):
                                queue.put_nowait(data.decode())


def raise_limit(streams: int) -> None:
    """Have room for that many descriptors; RuntimeError where the system does not give them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * streams + 256
    if soft < wanted <= hard or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    elif soft < wanted:
        raise RuntimeError(f"This process may open only {hard} files, too few for {streams} streams.")


def can_import(module: str) -> bool:
    """Import a module now, so that its memory is not counted as the streams'. False if it is missing."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def free_and_measure() -> int | None:
    """The process's memory once what is free was given back; None where the system does not tell."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return memory_now()


def memory_now() -> int | None:
    """Bytes of this process in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def per_client(before: int | None, clients: int) -> float | None:
    """What each of these clients has added since."""
    now = memory_now()
    return None if before is None or now is None or not clients else max(0, now - before) / clients


def routes(meter: Meter, *, anywhere: bool) -> APIRouter:
    """The endpoints of the card. Unless `anywhere`, only this host may begin."""
    router = APIRouter()

    def check(kind: Kind) -> None:
        if meter.costs.measuring != kind:
            raise HTTPException(409, "These streams are for the measurement, while it runs.")

    @router.get("/cost/hub")
    async def from_hub() -> Response:
        """A stream of ticks, as the hub serves it."""
        check("hub")
        return meter.hub.response(meter.prices)

    @router.get("/cost/starlette")
    async def from_sse_starlette() -> Response:
        """The same, as sse-starlette's users write it."""
        check("starlette")
        from sse_starlette import EventSourceResponse

        queue: asyncio.Queue[str] = asyncio.Queue(100)

        async def events() -> AsyncIterator[dict[str, Any]]:
            meter.queues.add(queue)
            try:
                while True:
                    yield {"event": "tick", "data": await queue.get()}
            finally:
                meter.queues.discard(queue)

        return EventSourceResponse(events())

    @router.post("/api/cost")
    async def start(request: Request) -> Costs:
        """Open the streams."""
        server = request.scope.get("server")
        if not meter.limit:
            raise HTTPException(403, "Off here: set SSE_HUB_CROWD to the number of streams it may open.")
        client = request.client.host if request.client else ""
        if not anywhere and client not in LOOPBACK:
            raise HTTPException(403, "Off for other hosts: set SSE_HUB_CROWD.")
        if not server or not server[1]:
            raise HTTPException(409, "This server listens on no port.")
        meter.start(server[0], server[1])
        return meter.costs

    @router.delete("/api/cost")
    async def stop() -> Costs:
        """Close them."""
        await meter.stop()
        return meter.costs

    return router
