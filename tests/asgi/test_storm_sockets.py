"""The storm on real sockets, on both paths: a hundred clients that do all that clients may do, at random.

They stop reading, read slowly, leave, are cut at any byte and come back, while events are published and the
hub is closed and used again. Every client compares what it gets with the log of all publications: no gap
without ``stream-reset`` or ``stream-lagged``, no duplicate, one order.

``STORM_SEEDS`` is the number of seeds to run, ``STORM_SEED`` the first one.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sse_hub import Hub, HubClosed
from sse_hub._testing.event_parser import Event, EventParser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from waiting import PATIENCE
from wire import Site, narrow_site, reset

SEED = int(os.environ.get("STORM_SEED", "20260101"))
SEEDS = int(os.environ.get("STORM_SEEDS", "1"))
CLIENTS = 100
TOPICS = [f"t{n}" for n in range(8)]
POLICIES = ["disconnect", "drop_oldest", "drop_newest"]
# What has to have happened, or the storm proves nothing about it.
HAPPENED = ["overflowed", "dropped", "resets", "resumed"]
CUTTERS = 10  # clients that are cut after a number of bytes: another one each time
SLOW = 10  # clients that read 500 bytes a second now and then


class Log:
    """The topics of each event, by its place in each life of the hub."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lives: dict[str, list[frozenset[str]]] = {}
        self.epoch = ""

    def publish(self, hub: Hub, topics: frozenset[str], size: int) -> None:
        with self.lock:  # no event is looked up before it is here
            try:
                id = hub.publish(topics, {"fill": "x" * size}).result()
            except HubClosed:
                return
            assert id is not None
            self.epoch, _, seq = id.rpartition("-")
            life = self.lives.setdefault(self.epoch, [])
            life.append(topics)
            assert int(seq) == len(life)

    def of(self, epoch: str) -> list[frozenset[str]]:
        with self.lock:
            return self.lives.get(epoch, [])

    def last(self) -> tuple[str, int]:
        with self.lock:
            return self.epoch, len(self.lives[self.epoch])


class Checker:
    """What one client believes: nothing that it cannot check against the log."""

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.id = ""
        self.epoch = ""
        self.last = 0  # everything up to here is accounted for
        self.dropped = 0
        self.excused = 0  # up to here, something may be missing: the client was told
        self.placed = False
        self.seen = 0

    def come(self) -> None:
        self.dropped, self.placed = 0, False

    def complete(self, until: int, log: list[frozenset[str]]) -> None:
        begin = max(self.last, self.excused)
        missing = sum(not self.topics.isdisjoint(log[seq]) for seq in range(begin, until))
        told = missing == self.dropped or (self.excused > self.last and missing < self.dropped)
        assert told, f"{missing} missing, {self.dropped} told of, from {self.last} to {until}"
        self.dropped = 0

    def see(self, event: Event, logs: Log) -> None:
        epoch, _, seq = event.id.rpartition("-")
        log, place = logs.of(epoch), int(seq or 0)
        self.seen += 1
        match event.event:
            case "stream-open":
                assert not self.placed
                assert self.id in ("", event.id)
                self.placed, self.epoch, self.last = True, epoch, place
                self.excused = 0
            case "stream-reset":
                self.last = max(self.last, place) if epoch == self.epoch else place
                self.epoch, self.excused = epoch, len(log)
            case "stream-lagged":
                self.dropped += event.json()["dropped"]
            case "stream-cursor":
                assert epoch == self.epoch or not self.epoch
                self.epoch = epoch
                assert place > self.last
                self.complete(place, log)
                self.last = place
            case _:
                assert epoch == self.epoch or not self.epoch, "of another life of the hub, without a reset"
                self.epoch = epoch
                assert place > self.last, "twice, or out of order"
                assert not self.topics.isdisjoint(log[place - 1])
                self.complete(place - 1, log)
                self.last = place
        self.id = event.id


class Cut(Exception):
    """The client leaves here."""


class Walker:
    """A client that does as it likes until told to listen."""

    def __init__(self, site: Site, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}-{number}")
        self.topics = frozenset(self.random.sample(TOPICS, 2))
        self.checker = Checker(self.topics)
        self.port = site.port
        policy = POLICIES[number % 3]
        self.path = f"/{'+'.join(sorted(self.topics))}/{policy}"
        self.visits = 0
        self.is_cutter = number < CUTTERS
        self.is_slow = CUTTERS <= number < CUTTERS + SLOW
        # From one storm to the next the cuts go on behind the last ones.
        self.cut_at = (seed * 40 + number * 397) % 4000 + 1

    async def visit(self, log: Log, calm: asyncio.Event) -> None:
        """One connection, from its request to its end."""
        with socket.socket() as sock:
            await self.connected(sock, log, calm)

    async def connected(self, sock: socket.socket, log: Log, calm: asyncio.Event) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", self.port))
        self.visits += 1
        id = f"Last-Event-ID: {self.checker.id}\r\n" if self.checker.id else ""
        await loop.sock_sendall(sock, f"GET {self.path} HTTP/1.1\r\nHost: x\r\n{id}\r\n".encode())
        self.checker.come()
        left = None
        if self.is_cutter and not calm.is_set():
            left, self.cut_at = self.cut_at, self.cut_at + 1
        crawls = self.is_slow and not calm.is_set() and self.random.random() < 0.5
        crawls_until = time.monotonic() + (self.random.uniform(1, 3) if crawls else 0)
        body = Body(self.checker.id)
        try:
            while not body.ended:
                size = 4096
                if time.monotonic() < crawls_until and not calm.is_set():
                    await asyncio.sleep(0.1)
                    size = 50
                data = await loop.sock_recv(sock, size if left is None else min(size, left))
                if not data:
                    return  # cut off: it comes back
                for event in body.feed(data):
                    self.checker.see(event, log)
                    if left is None and not calm.is_set():
                        await self.moody()
                if left is not None and (left := left - len(data)) == 0:
                    raise Cut
        except Cut:
            if self.random.random() < 0.5:
                reset(sock.dup())
        except ConnectionError:
            pass  # cut off: it comes back

    async def moody(self) -> None:
        mood = self.random.random()
        if mood < 0.01:
            await asyncio.sleep(self.random.uniform(0.2, 1.0))  # reads nothing
        elif mood < 0.02:
            raise Cut

    async def walk(self, log: Log, calm: asyncio.Event, away: float) -> None:
        while not calm.is_set():
            await self.visit(log, calm)
            await asyncio.sleep(self.random.uniform(0, away))
        # A client that was away comes back a last time, and stays.
        while True:
            await self.visit(log, calm)


class Body:
    """A response: its events, as its bytes arrive."""

    def __init__(self, last_event_id: str) -> None:
        self.parser = EventParser(last_event_id)
        self.rest = b""
        self.head = True
        self.ended = False

    def feed(self, data: bytes) -> Iterator[Event]:
        self.rest += data
        if self.head and b"\r\n\r\n" in self.rest:
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            self.head = False
        while not (self.head or self.ended):
            size, line, rest = self.rest.partition(b"\r\n")
            length = int(size, 16) if line else 0
            if not line or len(rest) < length + 2:
                return
            assert rest[length : length + 2] == b"\r\n", "the chunked coding is broken"
            self.rest = rest[length + 2 :]
            self.ended = length == 0
            self.parser.feed(rest[:length])
            while self.parser.events:
                if not (event := self.parser.events.popleft()).is_comment:
                    yield event


def publish(hub: Hub, log: Log, seed: int, over: threading.Event) -> None:
    dice = random.Random(seed)
    while not over.is_set():
        burst = 60 if dice.random() < 0.02 else 1
        size = 10_000 if burst > 1 or dice.random() < 0.02 else dice.randrange(300)
        for _ in range(burst):
            log.publish(hub, frozenset(dice.sample(TOPICS, dice.choice([1, 1, 2]))), size)
        over.wait(0.003)


@pytest.fixture(params=["portable", "httptools"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with narrow_site(request.param) as site:
        yield site


@pytest.mark.timeout(180 * SEEDS)
async def test_no_gap_nothing_twice_one_order(site: Site) -> None:
    visits = deliveries = published = 0
    for seed in range(SEED, SEED + SEEDS):
        try:
            walkers, log = await storm(site, seed)
        except BaseException:
            print(f"STORM_SEED={seed}")
            raise
        visits += sum(walker.visits for walker in walkers)
        deliveries += sum(walker.checker.seen for walker in walkers)
        published += sum(map(len, log.lives.values()))
    print(f"{SEEDS} seeds: {published} events, {visits} sessions, {deliveries} deliveries")


async def storm(site: Site, seed: int) -> tuple[list[Walker], Log]:
    hub = site.hub(history=150, capacity=8, heartbeat=0.2, stall_timeout=2.0, threads=2)
    routes = {}
    for policy in POLICIES:

        async def topics(request: Request) -> list[str]:
            return str(request.path_params["topics"]).split("+")

        routes[policy] = Route(f"/{{topics}}/{policy}", hub.endpoint(topics, overflow=policy))
    site.app = Starlette(routes=[*routes.values()])
    log = Log()
    calm, over = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=publish, args=(hub, log, seed, over))
    walkers = [Walker(site, seed, number) for number in range(CLIENTS)]
    thread.start()
    walks = [asyncio.create_task(walker.walk(log, calm, 0.3)) for walker in walkers]

    async def fails() -> None:
        for done in asyncio.as_completed(walks):
            await done

    failing = asyncio.create_task(fails())
    try:
        await rage(hub, random.Random(f"{seed}-hub"), failing)
        calm.set()
        over.set()
        await asyncio.to_thread(thread.join)
        log.publish(hub, frozenset(TOPICS), 10)  # the hub may have been closed after the last one
        await settled(hub, walkers, log, failing)
    finally:
        over.set()
        await asyncio.to_thread(thread.join)
        failing.cancel()
        for walk in walks:
            walk.cancel()
        await asyncio.gather(failing, *walks, return_exceptions=True)
        await asyncio.to_thread(site.close_hubs)
    return walkers, log


async def rage(hub: Hub, dice: random.Random, failing: asyncio.Task[None]) -> None:
    """At least two seconds and one close of the hub, and until everything has happened."""
    began = time.monotonic()
    happened = dict.fromkeys(HAPPENED, 0)
    closes = 0
    while time.monotonic() - began < 2 or not all(happened.values()) or not closes:
        assert time.monotonic() - began < PATIENCE, f"something never happened: {happened}"
        if failing.done():
            await failing
        await asyncio.sleep(0.05)
        for subscriber in hub.subscribers()[:1]:
            subscriber.close()
        stats = hub.stats()
        happened = {name: max(count, stats[name]) for name, count in happened.items()}
        if dice.random() < 0.02 or (not closes and time.monotonic() - began > 2):
            closes += 1
            await asyncio.to_thread(hub.close, dice.choice([0.0, 0.1, 0.5]))


async def settled(hub: Hub, walkers: list[Walker], log: Log, failing: asyncio.Task[Any]) -> None:
    """Everybody has everything: cursors reach the end of the log, and agree with it.

    Clients are given up only when those that are late receive no event for a while: as long as they do, the
    process has too little of the processor, and nothing is wrong.
    """
    end, seen, until = log.last(), -1, 0.0
    while late := [walker for walker in walkers if (walker.checker.epoch, walker.checker.last) != end]:
        now, before = time.monotonic(), seen
        seen = sum(walker.checker.seen for walker in late)
        if seen != before:
            until = now + PATIENCE
        elif now > until:
            where = [(walker.path, walker.checker.epoch, walker.checker.last) for walker in late]
            raise AssertionError(f"of {end}: {where}, {hub.stats()}")
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(failing), 0.05)
