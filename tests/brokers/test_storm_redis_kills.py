"""The storm of ends over Redis: workers are killed while Redis loses entries, is full, evicts or stands
still, and then every client that stays gets to the last event.

Each round is short and has a hub of its own, because what goes wrong with the last event goes wrong at the
end of a round. ``STORM_SEED=…`` is the first seed, ``STORM_ROUNDS=…`` how many rounds there are.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from redis_server import RedisServer, stream_key
from redis_source import HISTORY, Source, delete_some, run_out_of_memory, walking
from redis_walker import Walker, check_all
from redis_workers import Worker, WorkerHub, app_command
from servers import run, staying

CLIENTS = 24
FIRST = int(os.environ.get("STORM_SEED", "1"))
ROUNDS = int(os.environ.get("STORM_ROUNDS", "3"))
KINDS = ["delete", "evict", "full", "lru", "pause", "kill"]


class Visitor(Walker):
    """A client whose worker may be killed."""

    async def visit(self, hub: WorkerHub, calm: asyncio.Event) -> None:
        try:
            await super().visit(hub, calm)
        except ConnectionError:  # its worker was killed, and the next one has another port
            await asyncio.sleep(0.01)


class Workers:
    """Two portable workers, each of which is started anew when it was killed."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.hubs: list[WorkerHub] = []
        self.workers = [self._start() for _ in range(2)]

    def _start(self) -> Worker:
        worker = Worker(self._stack.enter_context(run(staying(app_command("--http", "httptools")))))
        self._stack.callback(worker.http.close)
        return worker

    def make(self, url: str, name: str) -> None:
        self._options: dict[str, Any] = {
            "broker": {"timeout": 1.0, "connect_timeout": 0.5},
            "history": HISTORY,
            "heartbeat": 0.5,
        }
        self._of = url, name
        self.hubs[:] = [worker.hub(url, name, **self._options) for worker in self.workers]

    def replace(self, which: int) -> None:
        self.workers[which].process.kill()
        worker = self._start()
        self.workers[which] = worker
        self.hubs[which] = worker.hub(*self._of, **self._options)


async def trouble(kind: str, redis: RedisServer, workers: Workers, key: str, dice: random.Random) -> None:
    admin = redis.admin
    match kind:
        case "delete":
            delete_some(admin, key, dice)
        case "evict":
            admin.delete(key)
        case "full" | "lru":
            policy = "noeviction" if kind == "full" else "allkeys-lru"
            await run_out_of_memory(admin, policy, dice.uniform(0, 0.5))
        case "pause":
            redis.pause()
            await asyncio.sleep(dice.choice([0.05, 0.3, 1.5]))
            redis.resume()
        case "kill":
            await asyncio.to_thread(workers.replace, dice.randrange(2))


async def play(redis: RedisServer, workers: Workers, seed: int) -> dict[str, Any]:
    dice = random.Random(f"round-{seed}")
    name = f"storm{seed}"
    await asyncio.to_thread(workers.make, redis.url, name)
    source = Source(redis.url, name, seed)
    visitors = [Visitor(seed, number) for number in range(CLIENTS)]
    kinds: Counter[str] = Counter()
    try:
        async with walking(visitors, workers.hubs, source, redis):
            for _ in range(dice.randint(2, 5)):
                kind = dice.choice(KINDS)
                kinds[kind] += 1
                # One goes wrong while another one does.
                other, key = dice.choice(KINDS[:4]), stream_key(name)
                also = asyncio.create_task(trouble(other, redis, workers, key, dice))
                await trouble(kind, redis, workers, key, dice)
                await asyncio.wait([also])
                await asyncio.sleep(dice.uniform(0, 0.2))
    except TimeoutError:
        late = [(n, v.id, v.record[-3:]) for n, v in enumerate(visitors) if not v.at_end]
        stats = [hub.stats() for hub in workers.hubs]
        raise AssertionError(f"STORM_SEED={seed}: clients {late} never get to the end: {stats}") from None
    source.resolve()
    check_all(visitors, source.check, seed)
    for worker in workers.workers:
        await asyncio.to_thread(worker.close_hubs)
    names = Counter(event for visitor in visitors for event, _, _ in visitor.record)
    return {"seed": seed, "sessions": sum(v.visits for v in visitors), **names, **source.results, **kinds}


@pytest.mark.timeout(120 * ROUNDS)
async def test_every_client_that_stays_gets_to_the_end() -> None:
    with RedisServer("--appendfsync", "everysec") as redis, ExitStack() as stack:
        workers = await asyncio.to_thread(Workers, stack)
        for seed in range(FIRST, FIRST + ROUNDS):
            print(json.dumps(await play(redis, workers, seed)), flush=True)
