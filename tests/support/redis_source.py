"""A storm over a Redis that loses data: the publisher, the clients' walks, some troubles, and the judge."""

from __future__ import annotations

import asyncio
import random
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis_server import EntryId, RedisServer, entry_id
from redis_walker import NONE, TOPICS, Place, Walker, walk_to_the_end
from sse_hub import BrokerError, Hub, HubFull, OutcomeUnknown, RedisBroker
from waiting import PATIENCE

HISTORY = 500


class Source:
    """Publishes from this process, which has no clients, and knows which events were acknowledged."""

    def __init__(self, url: str, name: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.hub = Hub(RedisBroker(url, timeout=2.0, connect_timeout=0.5), name=name, history=HISTORY)
        self.topics: list[frozenset[str]] = []
        self.outcomes: list[Any] = []
        self.over = threading.Event()
        self.results: Counter[str] = Counter()
        self.where: dict[str, list[EntryId]] = {topic: [] for topic in TOPICS}

    def one(self, **more: Any) -> None:
        everybody = bool(more)
        topics = frozenset(TOPICS if everybody else self.dice.sample(TOPICS, self.dice.choice([1, 1, 2, 8])))
        data = {"n": len(self.topics), **more}
        self.topics.append(topics)
        try:
            self.outcomes.append(self.hub.broadcast(data) if everybody else self.hub.publish(topics, data))
        except HubFull:
            self.outcomes.append(None)

    def run(self) -> None:
        while not self.over.wait(0.02):
            for _ in range(self.dice.choice([1, 5, 20, 60])):
                self.one()

    def resolve(self) -> None:
        ids: set[EntryId] = set()
        for topics, outcome in zip(self.topics, self.outcomes, strict=True):
            try:
                id = entry_id(outcome.result(PATIENCE)) if outcome else NONE
            except OutcomeUnknown:
                self.results["unknown"] += 1
            except BrokerError:
                self.results["failed"] += 1
            else:
                self.results["published"] += 1
                assert id not in ids, f"{id} was given to two publications"
                ids.add(id)
                for topic in topics if id != NONE else ():
                    self.where[topic].append(id)
        for found in self.where.values():
            found.sort()

    def check(self, walker: Walker) -> None:
        """Each step of the client's position is complete, or was announced."""
        last = NONE
        placed = opens = False
        seen: dict[int, EntryId] = {}
        for name, id, number in walker.record:
            at = entry_id(id) if id else last
            was_opening, opens = opens, name == "stream-open"
            match name:
                case "stream-open":
                    assert not placed or at == last, f"opens at {at}, reported was {last}"
                    placed = placed or bool(id)
                case "stream-reset":
                    # What it may have missed lies up to where it goes on: this id, or the next one.
                    placed = at != last
                    # What it held is void. If its id was refused, it is a newcomer. If the log has lost its
                    # end, it goes on before that, and a worker that has yet to notice replays what was lost.
                    if was_opening:
                        seen.clear()
                    seen = {number: had for number, had in seen.items() if had <= at}
                case "stream-cursor":
                    if placed:
                        self.complete(walker, last, at)
                    placed = True
                case _:
                    assert number not in seen, f"{number} came twice"
                    seen[number] = at
                    assert self.topics[number] & {*walker.topics}, f"{number} was not for it"
                    if placed:
                        assert at > last, f"{at} after {last}"
                        self.complete(walker, last, at, but=at)
                    placed = True
            last = at

    def complete(self, walker: Walker, after: EntryId, until: EntryId, but: EntryId = NONE) -> None:
        for topic in walker.topics:
            ids = self.where[topic]
            missing = {*ids[bisect_right(ids, after) : bisect_right(ids, until)]} - {but}
            assert not missing, f"a silent gap between {after} and {until}: {sorted(missing)[:5]}"
            assert bisect_left(ids, after) <= bisect_right(ids, until)


@asynccontextmanager
async def walking(
    walkers: Sequence[Walker], hubs: Sequence[Place], source: Source, redis: RedisServer
) -> AsyncIterator[None]:
    """The block runs while the source publishes and clients walk, of whom one has received something.

    Then it is calm, and every client gets to the end; ``TimeoutError`` if one does not.
    """
    calm = asyncio.Event()
    walks = [asyncio.create_task(walker.walk(hubs, calm)) for walker in walkers]
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        async with asyncio.timeout(PATIENCE):
            while not any(walker.record for walker in walkers):  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0.02)
        yield
        source.over.set()
        await asyncio.to_thread(thread.join)
        calm.set()
        await walk_to_the_end(walks, source)
    finally:
        source.over.set()
        redis.resume()
        for walk in walks:
            walk.cancel()
        await asyncio.gather(*walks, return_exceptions=True)
        await asyncio.to_thread(thread.join)
        await source.hub.aclose()


def delete_some(admin: Any, key: str, dice: random.Random) -> None:
    """Delete some of the newest 50 entries."""
    newest = [id for id, _ in admin.xrevrange(key, count=50)]
    if newest:
        admin.xdel(key, *dice.sample(newest, dice.randint(1, len(newest))))


async def run_out_of_memory(admin: Any, policy: str, seconds: float) -> None:
    """Redis has no memory left for so long."""
    admin.config_set("maxmemory-policy", policy)
    admin.config_set("maxmemory", 1)
    await asyncio.sleep(seconds)
    admin.config_set("maxmemory", 0)
