"""A client of hubs with a broker that comes and goes, for storms."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from connections import connected
from redis_server import EntryId
from sse_hub import BrokerError
from sse_hub._testing.event_parser import Event, EventParser
from waiting import PATIENCE

TOPICS = [f"t{n}" for n in range(40)]
NONE: EntryId = (0, 0)


class Place(Protocol):
    """A worker's hub."""

    name: str

    @property
    def port(self) -> int: ...


class Walker:
    """A client that leaves and comes back as it likes until the storm is calm. Its record is judged later."""

    leaves = 0.01  # how likely with each event

    def __init__(self, seed: int, number: int) -> None:
        self.dice = random.Random(f"{seed}-{number}")
        self.topics = self.dice.sample(TOPICS, 2)
        # Some are away for so long that history forgets them.
        self.away = 3.0 if number % 10 == 0 else 0.3
        self.id = ""
        self.visits = 0
        # (name or None for an event, id, number), connection after connection
        self.record: list[tuple[str, str, int]] = []
        self.at_end = False

    def see(self, event: Event) -> None:
        self.id = event.id
        if event.event == "message":
            data = event.json()
            self.record.append(("event", event.id, data["n"]))
            self.at_end = self.at_end or "end" in data
        else:
            self.record.append((event.event, event.id, -1))

    async def visit(self, hub: Place, calm: asyncio.Event) -> None:
        """One connection, from its request to its end."""
        async with connected(hub.port) as (reader, writer):
            self.visits += 1
            id = f"Last-Event-ID: {self.id}\r\n" if self.id else ""
            path = f"/{hub.name}/events?topics={','.join(self.topics)}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{id}\r\n".encode())
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.read(reader, calm)

    async def read(self, reader: asyncio.StreamReader, calm: asyncio.Event) -> None:
        parser = EventParser(self.id)
        await reader.readuntil(b"\r\n\r\n")
        while not self.at_end:
            size = int(await reader.readuntil(b"\r\n"), 16)
            chunk = await reader.readexactly(size + 2)
            if size == 0:
                return
            parser.feed(chunk[:-2])
            while parser.events:
                if not (event := parser.events.popleft()).is_comment:
                    self.see(event)
                    # For each event, as a loaded worker sends many of them in one chunk.
                    if not calm.is_set() and self.dice.random() < self.leaves:
                        return  # in the middle of whatever comes next

    async def walk(self, hubs: Sequence[Place], calm: asyncio.Event) -> None:
        while not self.at_end:
            await self.visit(self.dice.choice(hubs), calm)
            if not calm.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(calm.wait(), self.dice.uniform(0, self.away))


class Publisher(Protocol):
    """A storm's publisher."""

    outcomes: list[Any]

    def one(self, *, end: bool) -> None: ...


async def walk_to_the_end(walks: Iterable[asyncio.Task[None]], publisher: Publisher) -> None:
    """Publish the last event until every client has it.

    More than once: a publication may fail, and a client that was cut before it had any id gets nothing of the
    past. One that is lost is a gap before the next.
    """
    pending = {*walks}
    async with asyncio.timeout(2 * PATIENCE):
        while pending:
            publisher.one(end=True)
            with suppress(BrokerError):
                await publisher.outcomes[-1]
            _, pending = await asyncio.wait(pending, timeout=1)


_Walker = TypeVar("_Walker", bound=Walker)


def check_all(walkers: list[_Walker], check: Callable[[_Walker], None], seed: int) -> None:
    """Check every record, and name the clients that fail."""
    failures = []
    for number, walker in enumerate(walkers):
        try:
            check(walker)
        except AssertionError as error:
            failures.append(f"client {number}: {error}")
    assert not failures, f"STORM_SEED={seed}, {len(failures)} clients\n" + "\n".join(failures[:10])
