"""The storm over a Redis that loses data: clients come back to either of two workers with their last id
while entries are deleted, the stream is evicted, memory is full, connections are cut, Redis stands still, and
is killed and started again.

Each record is compared with what was acknowledged: whatever lies between two positions of a client was seen,
or a ``stream-reset`` came between them; and every client gets to the end. What happens is seeded; each
failure names the seed. ``STORM_SEED=…`` repeats one, ``STORM_SEEDS=…`` runs that many, ``STORM_SECONDS=…`` is
how long each takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter

import pytest
from redis_server import RedisServer, stream_key
from redis_source import HISTORY, Source, delete_some, run_out_of_memory, walking
from redis_walker import Walker, check_all
from redis_workers import Pair

CLIENTS = 40
FIRST = int(os.environ.get("STORM_SEED", "1"))
SECONDS = float(os.environ.get("STORM_SECONDS", "8"))


async def trouble(redis: RedisServer, key: str, dice: random.Random) -> str:
    """One thing that goes wrong with Redis, and is right again afterwards."""
    kind = dice.choice(["delete", "trim", "evict", "lru", "full", "cut", "pause", "pause", "stop", "restart"])
    admin = redis.admin
    match kind:
        case "delete":
            delete_some(admin, key, dice)
        case "trim":
            admin.xtrim(key, maxlen=dice.randrange(20), approximate=False)
        case "evict":
            for _ in range(dice.choice([1, 1, 20])):
                admin.delete(key)
        case "lru":
            await run_out_of_memory(admin, "allkeys-lru", dice.uniform(0, 0.3))
        case "full":
            await run_out_of_memory(admin, "noeviction", dice.uniform(0, 0.5))
        case "cut":
            admin.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        case "pause":
            redis.pause()
            await asyncio.sleep(dice.choice([0.05, 0.3, 2.5]))
            redis.resume()
        case "stop":
            admin.execute_command(f"CLIENT PAUSE {dice.choice([50, 500])} WRITE")
        case "restart":
            redis.kill()
            await asyncio.sleep(dice.uniform(0, 0.5))
            redis.restart()
    return kind


def seeds() -> range:
    return range(FIRST, FIRST + int(os.environ.get("STORM_SEEDS", "1")))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds())
async def test_a_storm_over_a_redis_that_loses_things_is_silent_about_nothing(pair: Pair, seed: int) -> None:
    dice = random.Random(f"trouble-{seed}")
    with RedisServer("--appendfsync", "everysec") as redis:
        broker = {"timeout": 2.0, "connect_timeout": 0.5}
        hubs = [*pair.hubs(redis.url, broker=broker, history=HISTORY, heartbeat=0.5)]
        source = Source(redis.url, pair.name, seed)
        walkers = [Walker(seed, number) for number in range(CLIENTS)]
        kinds: Counter[str] = Counter()
        try:
            async with walking(walkers, hubs, source, redis):
                loop = asyncio.get_running_loop()
                end = loop.time() + SECONDS
                while loop.time() < end:
                    kinds[await trouble(redis, stream_key(pair.name), dice)] += 1
                    await asyncio.sleep(dice.uniform(0, 0.5))
        except TimeoutError:
            late = [number for number, walker in enumerate(walkers) if not walker.at_end]
            raise AssertionError(f"STORM_SEED={seed}: clients {late} never get to the end") from None
    source.resolve()
    check_all(walkers, source.check, seed)
    names = Counter(name for walker in walkers for name, _, _ in walker.record)
    sessions = sum(walker.visits for walker in walkers)
    print(json.dumps({"seed": seed, "sessions": sessions, **names, **source.results, "trouble": kinds}))
