"""The storm on real sockets, on both paths: a hundred clients stop reading, leave and come back at random.

Every client compares what it gets with the log of all publications: no gap without ``stream-reset`` or
``stream-lagged``, no duplicate, one order.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sse_hub import Hub
from sse_hub._testing.event_parser import Event, EventParser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from waiting import PATIENCE
from wire import WAYS, Site, quiet, reset

SEED = 20_260_101
CLIENTS = 100
TOPICS = [f"t{n}" for n in range(8)]
POLICIES = ["disconnect", "drop_oldest", "drop_newest"]
# What has to have happened, or the storm proves nothing about it.
HAPPENED = ["overflowed", "dropped", "resets", "resumed"]

Log = list[frozenset[str]]


class Checker:
    """What one client believes: nothing that it cannot check against the log."""

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.id = ""
        self.last = 0  # everything up to here is accounted for
        self.dropped = 0
        self.excused = 0  # up to here, something may be missing: the client was told
        self.placed = False

    def come(self) -> None:
        self.dropped, self.placed = 0, False

    def missing(self, until: int, log: Log) -> int:
        return sum(not self.topics.isdisjoint(log[seq]) for seq in range(max(self.last, self.excused), until))

    def complete(self, until: int, log: Log) -> None:
        missing = self.missing(until, log)
        told = missing == self.dropped or (self.excused > self.last and missing < self.dropped)
        assert told, f"{missing} missing, {self.dropped} told of, from {self.last} to {until}"
        self.dropped = 0

    def see(self, event: Event, log: Log) -> None:
        seq = int(event.id.rpartition("-")[2] or 0)
        match event.event:
            case "stream-open":
                assert not self.placed
                assert self.id in ("", event.id)
                self.placed, self.last = True, seq
            case "stream-reset":
                self.excused = len(log)
                self.last = max(self.last, seq)
            case "stream-lagged":
                self.dropped += event.json()["dropped"]
            case "stream-cursor":
                assert seq > self.last
                self.complete(seq, log)
                self.last = seq
            case _:
                assert seq > self.last, "twice, or out of order"
                assert event.json()["n"] == seq
                assert not self.topics.isdisjoint(log[seq - 1])
                self.complete(seq - 1, log)
                self.last = seq
        self.id = event.id


class Walker:
    """A client that does as it likes until told to listen."""

    def __init__(self, site: Site, number: int) -> None:
        self.random = random.Random(f"{SEED}-{number}")
        self.topics = frozenset(self.random.sample(TOPICS, 2))
        self.checker = Checker(self.topics)
        self.port = site.port
        policy = POLICIES[number % 3]
        self.path = f"/{'+'.join(sorted(self.topics))}/{policy}"
        self.visits = 0

    async def visit(self, log: Log, calm: asyncio.Event) -> None:
        """One connection, from its request to its end."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        self.visits += 1
        id = f"Last-Event-ID: {self.checker.id}\r\n" if self.checker.id else ""
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: x\r\n{id}\r\n".encode())
        self.checker.come()
        parser = EventParser(self.checker.id)
        try:
            await reader.readuntil(b"\r\n\r\n")
            while True:
                size = int(await reader.readuntil(b"\r\n"), 16)
                chunk = await reader.readexactly(size + 2)
                assert chunk.endswith(b"\r\n")
                if size == 0:
                    return
                parser.feed(chunk[:-2])
                while parser.events:
                    if not (event := parser.events.popleft()).is_comment:
                        self.checker.see(event, log)
                if not calm.is_set():
                    mood = self.random.random()
                    if mood < 0.01:
                        await asyncio.sleep(self.random.uniform(0.2, 1.0))  # reads nothing meanwhile
                    elif mood < 0.02:
                        if self.random.random() < 0.5:
                            reset(sock.dup())
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # cut off: it comes back
        finally:
            writer.transport.abort()

    async def walk(self, log: Log, calm: asyncio.Event, away: float) -> None:
        while not calm.is_set():
            await self.visit(log, calm)
            await asyncio.sleep(self.random.uniform(0, away))
        # Whoever was away comes back a last time, and stays.
        while True:
            await self.visit(log, calm)


def publish(hub: Hub, log: Log, over: threading.Event) -> None:
    dice = random.Random(SEED)
    while not over.is_set():
        burst = 60 if dice.random() < 0.02 else 1
        size = 10_000 if burst > 1 or dice.random() < 0.02 else dice.randrange(300)
        for _ in range(burst):
            topics = frozenset(dice.sample(TOPICS, dice.choice([1, 1, 2])))
            log.append(topics)  # before it can arrive
            hub.publish(topics, {"n": len(log), "fill": "x" * size})
        over.wait(0.003)


@pytest.fixture(params=["portable", "httptools"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    assert request.param in WAYS
    site = Site(request.param)
    for sock in site.server._sockets:  # else the kernel takes megabytes for a client that stopped reading
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    # asyncio's own transport says this of whoever writes six times in one turn after a reset.
    with quiet("socket.send() raised exception."):
        yield site
        site.close_hubs()
    site.close()


async def test_no_gap_nothing_twice_one_order(site: Site) -> None:
    hub = site.hub(history=150, capacity=8, heartbeat=0.2, stall_timeout=2.0, threads=2)
    routes = {}
    for policy in POLICIES:

        async def topics(request: Request) -> list[str]:
            return str(request.path_params["topics"]).split("+")

        routes[policy] = Route(f"/{{topics}}/{policy}", hub.endpoint(topics, overflow=policy))
    site.app = Starlette(routes=[*routes.values()])
    log: Log = []
    calm, over = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=publish, args=(hub, log, over))
    walkers = [Walker(site, number) for number in range(CLIENTS)]
    thread.start()
    walks = [asyncio.create_task(walker.walk(log, calm, 0.3)) for walker in walkers]

    async def fails() -> None:
        for done in asyncio.as_completed(walks):
            await done

    failing = asyncio.create_task(fails())
    try:
        await storm(hub, failing)
        calm.set()
        over.set()
        thread.join()
        await settled(hub, walkers, log, failing)
    finally:
        over.set()
        thread.join()
        failing.cancel()
        for walk in walks:
            walk.cancel()
        await asyncio.gather(failing, *walks, return_exceptions=True)
    print(f"{len(log)} events, {sum(walker.visits for walker in walkers)} visits, {hub.stats()}")


async def storm(hub: Hub, failing: asyncio.Task[None]) -> None:
    """At least two seconds, and until everything has happened."""
    began = time.monotonic()
    while time.monotonic() - began < 2 or not all(hub.stats()[name] for name in HAPPENED):
        assert time.monotonic() - began < PATIENCE, f"something never happened: {hub.stats()}"
        if failing.done():
            await failing
        await asyncio.sleep(0.05)
        for subscriber in hub.subscribers()[:1]:
            subscriber.close()


async def settled(hub: Hub, walkers: list[Walker], log: Log, failing: asyncio.Task[Any]) -> None:
    """Everybody has everything: cursors reach the end of the log, and agree with it."""
    until = time.monotonic() + PATIENCE
    while any(walker.checker.last < len(log) for walker in walkers):
        late = [(walker.path, walker.checker.last) for walker in walkers if walker.checker.last < len(log)]
        assert time.monotonic() < until, f"of {len(log)}: {late}"
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(failing), 0.05)
