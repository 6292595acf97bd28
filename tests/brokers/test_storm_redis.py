"""The storm over Redis: 200 clients come back to either of two workers with their last id while events are
published, Redis stands still and goes on, and the stream is trimmed hard once.

Every client's record is compared with the stream itself: no gap without ``stream-reset``, no duplicate, one
order. The storm lasts until everything that it is about has happened, on a fast machine or a slow one. What
clients do is seeded; each failure names the seed, and ``STORM_SEED=…`` repeats it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import threading
import time
from bisect import bisect_left
from collections import Counter
from typing import Any

import pytest
from redis_server import RedisServer, entry_id, stream_key
from redis_walker import TOPICS, check_all, walk_to_the_end
from redis_workers import Pair
from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
from truth import Checked, Truth
from waiting import PATIENCE

CLIENTS = 200
EVENTS = 20_000  # at least
VISITS = 5 * CLIENTS  # at least
DELIVERED = 50_000  # at least
HISTORY = 4000


class Stream(Truth):
    """Everything that was ever in the stream, kept from before it is trimmed."""

    def __init__(self, redis: RedisServer, key: str) -> None:
        super().__init__()
        self.redis, self.key = redis, key
        self.looked = 0  # how many were published when it looked last

    def look(self, trim: int | None = None) -> None:
        """Note the new entries, and trim in the same transaction."""
        self.looked = len(self.topics)
        after = "(" + "-".join(map(str, self.ids[-1])) if self.ids else "-"
        pipeline = self.redis.admin.pipeline(transaction=True)
        pipeline.xrange(self.key, after)
        if trim is not None:
            pipeline.xtrim(self.key, maxlen=trim, approximate=False)
        for id, fields in pipeline.execute()[0]:
            number = re.search(r'\{"n":(\d+)', "".join(fields.values()))
            assert number, f"no data in {fields}"
            self.ids.append(entry_id(id))
            self.numbers.append(int(number[1]))


class Publisher:
    """Publishes everything from this process, which has no clients, and keeps each outcome."""

    def __init__(self, url: str, name: str, seed: int, truth: Stream) -> None:
        self.dice = random.Random(seed)
        self.truth = truth
        self.hub = Hub(RedisBroker(url, timeout=2.0), name=name, history=HISTORY)
        self.outcomes: list[Any] = []
        self.results: Counter[str] = Counter()
        self.over = threading.Event()

    def one(self, **more: Any) -> None:
        n = len(self.truth.topics)
        everybody = bool(more) or self.dice.random() < 0.005
        topics = frozenset(self.dice.sample(TOPICS, self.dice.choice([1, 1, 1, 2])))
        self.truth.topics[n] = None if everybody else topics
        data = {"n": n, **more, "fill": "x" * self.dice.randrange(100)}
        self.outcomes.append(self.hub.broadcast(data) if everybody else self.hub.publish(topics, data))

    def run(self, per_second: int) -> None:
        """Publish until the storm is over; more slowly once there were enough."""
        for n in itertools.count():
            self.one()
            if n % 50 == 0 and self.over.wait(50 / per_second * (1 if n < EVENTS else 4)):
                return
            # Not far ahead of the trouble, which otherwise comes too late on a loaded machine.
            while n > self.truth.looked + 3000 and not self.over.wait(0.01):
                pass

    def resolve(self) -> set[int]:
        """The numbers of the events that were certainly published; each has the id that it was given."""
        published = set()
        for n, outcome in enumerate(self.outcomes):
            try:
                id = entry_id(outcome.result(PATIENCE))
            except OutcomeUnknown:
                self.results["unknown"] += 1
            except BrokerError:
                self.results["failed"] += 1
            else:
                self.results["published"] += 1
                published.add(n)
                at = bisect_left(self.truth.ids, id)
                assert at < len(self.truth.ids), f"{id} is not in the stream"
                assert self.truth.ids[at] == id, f"{id} is not in the stream"
                assert self.truth.numbers[at] == n
        return published


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("STORM_SEED", "20260101"))
    print(f"STORM_SEED={seed}")
    return seed


def happened(walkers: list[Checked]) -> Counter[str]:
    """How often clients came, and what they got."""
    names = Counter(name for walker in walkers for name, _, _ in walker.record)
    return names + Counter(visits=sum(walker.visits for walker in walkers))


def is_storm(seen: Counter[str]) -> bool:
    # The resets are those of the worker that was overrun.
    return seen["visits"] > VISITS and seen["event"] > DELIVERED and seen["stream-reset"] > CLIENTS // 10


async def trouble(redis: RedisServer, pair: Pair, truth: Stream, walkers: list[Checked]) -> None:
    """What happens besides, at fixed places of the publications; returns when it was a storm."""

    async def reached(n: int) -> None:
        while len(truth.topics) < n:
            truth.look()
            await asyncio.sleep(0.02)

    async def kept(count: int) -> None:
        """So many more are in the stream."""
        until = len(truth.ids) + count
        while len(truth.ids) < until:
            truth.look()
            await asyncio.sleep(0.02)

    await reached(4000)
    truth.look()  # the publisher, which stays near it, goes on while Redis stands still
    redis.pause()
    await asyncio.sleep(3.0)  # longer than a publication may take
    redis.resume()
    await kept(3000)
    # A worker is overrun: entries that it has not read are trimmed. No other worker may be affected.
    (overrun := pair.workers[1].process.process).send_signal(signal.SIGSTOP)
    await kept(HISTORY // 4)
    truth.look(trim=5)
    overrun.send_signal(signal.SIGCONT)
    await kept(1000)
    redis.pause()
    await asyncio.sleep(0.3)  # shorter
    redis.resume()
    await reached(EVENTS)
    until = time.monotonic() + 2 * PATIENCE
    while not is_storm(happened(walkers)) and time.monotonic() < until:
        truth.look()
        await asyncio.sleep(0.1)


@pytest.mark.timeout(600)
async def test_a_storm_over_two_workers_loses_nothing_silently(
    redis: RedisServer, pair: Pair, seed: int
) -> None:
    broker = {"timeout": 2.0, "connect_timeout": 0.5}
    hubs = [*pair.hubs(redis.url, broker=broker, history=HISTORY, heartbeat=0.5)]
    truth = Stream(redis, stream_key(pair.name))
    publisher = Publisher(redis.url, pair.name, seed, truth)
    walkers = [Checked(seed, number) for number in range(CLIENTS)]
    calm = asyncio.Event()
    walks = [asyncio.create_task(walker.walk(hubs, calm)) for walker in walkers]
    thread = threading.Thread(target=publisher.run, args=(2000,))
    try:
        thread.start()
        await trouble(redis, pair, truth, walkers)
        publisher.over.set()
        await asyncio.to_thread(thread.join)
        calm.set()
        await walk_to_the_end(walks, publisher)
        await asyncio.gather(*walks)
    finally:
        publisher.over.set()
        redis.resume()
        pair.workers[1].process.process.send_signal(signal.SIGCONT)
        for walk in walks:
            walk.cancel()
        await asyncio.gather(*walks, return_exceptions=True)
        await asyncio.to_thread(thread.join)
        await publisher.hub.aclose()
    truth.look()
    judge(walkers, truth, publisher, seed)


def judge(walkers: list[Checked], truth: Stream, publisher: Publisher, seed: int) -> None:
    """All the records, and that it was a storm."""
    truth.index()
    assert len({*truth.numbers}) == len(truth.numbers), "something was published twice"
    published = publisher.resolve()
    assert published <= {*truth.numbers}
    check_all(walkers, lambda walker: walker.check(truth), seed)
    seen = happened(walkers)
    print(json.dumps({**seen, **publisher.results}))
    assert is_storm(seen), seen
    assert publisher.results["unknown"] + publisher.results["failed"] > 0
    assert publisher.results["published"] > EVENTS / 2
