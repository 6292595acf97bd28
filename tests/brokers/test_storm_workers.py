"""The storm of a server over files: clients hop between four workers with their last id, while workers are
killed and started again, and the whole server is restarted.

Everybody publishes. The log keeps everything, so every client's record is the log's, and nobody is reset.
``STORM_CLIENTS=300 STORM_KILLS=40`` is the full storm.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import file_serving
import pytest
from file_server import FileServer
from file_writer import fork_server
from redis_server import entry_id
from redis_walker import Place, check_all, walk_to_the_end
from truth import Checked, Truth
from waiting import PATIENCE, until_async

WORKERS = 4
CLIENTS = int(os.environ.get("STORM_CLIENTS", "24"))
KILLS = int(os.environ.get("STORM_KILLS", "1"))
SEED = int(os.environ.get("STORM_SEED", "20260101"))


class Log(Truth):
    """What the files have, once all is over."""

    def __init__(self, files: FileServer) -> None:
        super().__init__()
        before = ""
        for entry in files.entries():
            fields = entry.named
            assert entry.before == before or not before, f"the chain breaks before {entry.id}"
            before = entry.id
            number = re.search(rb'\{"n":(\d+)', fields["d"])
            assert number, f"no data in {fields}"
            to = frozenset(fields["t"].decode().split("\n")) if fields["k"] == b"t" else None
            assert int(number[1]) not in self.topics, f"{number[1]!r} was written twice"
            self.topics[int(number[1])] = to
            self.ids.append(entry_id(entry.id))
            self.numbers.append(int(number[1]))
        self.index()


class Hopper(Checked):
    """A client that goes to another worker where there is none any more."""

    leaves = 0.05

    async def visit(self, hub: Place, calm: asyncio.Event) -> None:
        with suppress(ConnectionError):
            await super().visit(hub, calm)


@dataclass
class Worker:
    """A process that serves."""

    process: multiprocessing.process.BaseProcess
    port: int
    name: str = "default"


class Server:
    """Four workers, and those that were before them."""

    def __init__(self, url: str, records: Path) -> None:
        self.url, self.records = url, records
        self.workers: list[Place] = []
        self.started = 0
        self.processes: list[multiprocessing.process.BaseProcess] = []
        self.context = fork_server()

    async def start(self) -> None:
        self.started += 1
        ours, theirs = self.context.Pipe()
        record = str(self.records / f"{self.started}")
        args = (self.url, self.started, record, theirs)
        process = self.context.Process(target=file_serving.serve, args=args)
        process.start()
        async with asyncio.timeout(PATIENCE):
            port = await asyncio.to_thread(ours.recv)
        self.workers.append(Worker(process, port))
        self.processes.append(process)

    async def end(self, worker: Any, *, kill: bool) -> None:
        """Kill a worker, or let it close; clients still come to it."""
        (worker.process.kill if kill else worker.process.terminate)()
        await asyncio.to_thread(worker.process.join, PATIENCE)
        assert worker.process.exitcode in ((-9,) if kill else (0, -15))

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    async def restart(self) -> None:
        old = [*self.workers]
        await asyncio.gather(*(self.end(worker, kill=False) for worker in old))
        for _ in range(WORKERS):
            await self.start()
        del self.workers[: len(old)]


class Publisher:
    """The end of the storm, published from this process."""

    def __init__(self, url: str) -> None:
        self.hub = file_serving.hub(url)
        self.outcomes: list[Any] = []

    def one(self, *, end: bool) -> None:
        self.outcomes.append(self.hub.broadcast({"n": len(self.outcomes), "end": end}))


@pytest.mark.timeout(900)
async def test_a_server_whose_workers_die_and_restart_resets_nobody(
    files: FileServer, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    server, publisher = Server(files.url, tmp_path), Publisher(files.url)
    walkers = [Hopper(SEED, number) for number in range(CLIENTS)]
    calm = asyncio.Event()
    walks: list[asyncio.Task[None]] = []

    def events() -> int:
        return sum(len(walker.record) for walker in walkers)

    async def goes_on() -> None:
        """Until clients have got more, and come again."""
        until = events() + 5 * CLIENTS
        visits = sum(walker.visits for walker in walkers) + CLIENTS
        async with asyncio.timeout(2 * PATIENCE):
            await until_async(
                lambda: events() > until and sum(walker.visits for walker in walkers) > visits, 2 * PATIENCE
            )

    try:
        for _ in range(WORKERS):
            await server.start()
        walks = [asyncio.create_task(walker.walk(server.workers, calm)) for walker in walkers]
        await goes_on()
        for kill in range(1, KILLS + 1):
            await server.end(killed := dice.choice(server.workers), kill=True)
            if dice.random() < 0.5:
                await goes_on()  # with three
            await server.start()
            server.workers.remove(killed)
            if kill % 2 == 0 or kill == KILLS:
                await server.restart()
        await goes_on()
        calm.set()
        await walk_to_the_end(walks, publisher)
        await asyncio.gather(*(server.end(worker, kill=False) for worker in [*server.workers]))
    finally:
        for walk in walks:
            walk.cancel()
        await asyncio.gather(*walks, return_exceptions=True)
        server.kill()
        await publisher.hub.aclose()
    judge(walkers, Log(files), tmp_path)


def judge(walkers: list[Hopper], log: Log, records: Path) -> None:
    """Every record against the log, and what was acknowledged."""
    assert log.ids == sorted({*log.ids})
    check_all(walkers, lambda walker: walker.check(log), SEED)
    acknowledged = 0
    for record in records.iterdir():
        for line in record.read_text().splitlines():
            id, number = line.split()
            acknowledged += 1
            assert log.number.get(entry_id(id)) == int(number), f"{id} was acknowledged"
    seen = Counter(name for walker in walkers for name, _, _ in walker.record)
    visits = sum(walker.visits for walker in walkers)
    print(json.dumps({**seen, "visits": visits, "acknowledged": acknowledged, "kept": len(log.ids)}))
    assert seen["stream-reset"] == 0, seen
    assert acknowledged > 50
