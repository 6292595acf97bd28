"""The storm of the Python API: threads publish while clients come, lag, leave and resume at random.

The clients live on one event loop, or on four in threads of their own. Every client's record is compared
with the log of all publications: no silent gap, no duplicate. The storm lasts until everything that it is
about has happened, on a fast machine or a slow one. The clients' decisions are seeded; each failure names
the seed, and ``STORM_SEED=…`` repeats it. (The threads' timing is not seeded.) ``STORM_BURST=…`` publishes
more events, for a longer storm.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import pytest
from sse_hub import Hub, Subscription
from sse_hub.testing import Event, EventClient, StreamEnded, connect
from waiting import PATIENCE

PUBLISHERS = 8
CLIENTS = 200
# So many events come as fast as they can; from then on only a few, as every one costs every client its time.
BURST = int(os.environ.get("STORM_BURST", "4000"))
TOPICS = [f"t{n}" for n in range(12)]
# Seconds that each half may take at most: on a machine with a load average of 24, both take 50.
LONGEST = 5 * PATIENCE


@dataclass
class Log:
    """What was published: by sequence number, the topics (None: all) and the data."""

    entries: dict[int, tuple[frozenset[str] | None, str]] = field(default_factory=dict)

    def wanted(self, after: int, until: int, topics: frozenset[str]) -> list[int]:
        """What a client of these topics is to get of what lies between."""
        between = range(after + 1, until + 1)
        return [seq for seq in between if (to := self.entries[seq][0]) is None or to & topics]


@dataclass
class Record:
    """What one client saw, life after life of its connection."""

    topics: frozenset[str]
    overflow: str
    # ("open" | "event" | "reset" | "lagged" | "cursor", sequence number or None, data)
    seen: list[tuple[str, int | None, str]] = field(default_factory=list)
    connections: int = 0
    # The newest sequence number when it joined last: a reset speaks of what lies up to there.
    head: int = 0
    private: int = 0


def publish(hub: Hub, log: Log, lock: threading.Lock, seed: int, stop: threading.Event, n: int) -> None:
    rng = random.Random(seed)
    mine: dict[int, tuple[frozenset[str] | None, str]] = {}
    count = 0
    while not stop.is_set():
        count += 1
        data = f"{n}-{count}"
        to = None if rng.random() < 0.05 else frozenset(rng.sample(TOPICS, rng.choice([1, 1, 1, 2, 3])))
        published = hub.broadcast(raw_data=data) if to is None else hub.publish(to, raw_data=data)
        mine[int((published.id or "").rpartition("-")[2])] = (to, data)
        if rng.random() < 0.02 and (somebody := hub.subscribers(rng.choice(TOPICS))):
            hub.send(rng.choice(somebody).id, raw_data="private")
        if count > BURST // PUBLISHERS:
            stop.wait(0.05)
        elif rng.random() < 0.3:
            time.sleep(rng.random() * 0.01)
    with lock:
        log.entries.update(mine)


def note(hub: Hub, record: Record, event: Event) -> None:
    kind = {
        "stream-open": "open",
        "stream-reset": "reset",
        "stream-lagged": "lagged",
        "stream-cursor": "cursor",
    }.get(event.event, "event")
    if event.data == "private":
        record.private += 1
        return
    seq = int(event.id.rpartition("-")[2]) if event.id else None
    if kind == "reset" and event.json()["requested"] is None:
        # In the middle of a replay, which may have reached events that were published after it began.
        record.head = hub.stats()["cursor"]
    record.seen.append((kind, seq, str(record.head) if kind == "reset" else event.data))


async def live(hub: Hub, record: Record, rng: random.Random, over: threading.Event) -> None:
    """Come, read, lag, leave and come back, until the storm is over; then read to its end."""
    await asyncio.sleep(rng.random() * 0.5)
    overflow: Any = record.overflow
    app = hub.endpoint(record.topics, info=record, overflow=overflow, capacity=rng.choice([2, 20, 200]))
    client = await connect(app, "/", control=True)
    record.connections += 1
    while not over.is_set():
        match rng.random():
            case x if x < 0.5:
                await read(hub, client, record, rng.random() * 0.3)
            case x if x < 0.7:
                client.pause()
                for _ in range(rng.randrange(15)):  # turns of the loop, which may be slow
                    await asyncio.sleep(0.03)
                client.resume()
            case x if x < 0.8:
                for subscription in hub.subscribers(next(iter(record.topics))):
                    subscription.close()
                    break
            case _:
                await asyncio.sleep(rng.random() * 0.1)
                await client.reconnect()
                record.connections += 1
        if client.ended:
            await read(hub, client, record, 0)
            await client.reconnect()
            record.connections += 1
    record_end[id(record)] = client


Life = tuple[Record, random.Random]

# The clients that are still connected when the storm is over.
record_end: dict[int, EventClient] = {}


async def read(hub: Hub, client: EventClient, record: Record, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while True:
        try:
            note(hub, record, await client.next(max(0.0, until - loop.time())))
        except (TimeoutError, StreamEnded):
            return


async def finish(hub: Hub, record: Record, last: int) -> None:
    """Read up to the very last event, which is a broadcast."""
    client = record_end.pop(id(record))
    async with asyncio.timeout(LONGEST):
        while not record.seen or record.seen[-1][1] != last:
            try:
                note(hub, record, await client.next(PATIENCE))
            except StreamEnded:
                await client.reconnect()
                record.connections += 1
    await client.close()


def check(record: Record, log: Log) -> None:
    """One order, nothing twice that was reported, and no gap that was not announced."""
    position = -1
    lagged = False
    unproven = 0  # Up to here a reset said that something may be missing.

    def step(to: int, until: int) -> None:
        nonlocal position, lagged
        missing = log.wanted(max(position, unproven), until, record.topics) if position >= 0 else []
        assert lagged or not missing, f"after {position} comes {to}, a silent gap: {missing}"
        position, lagged = to, False

    for kind, seq, data in record.seen:
        if kind == "reset":
            unproven = max(unproven, int(data))
            position = max(position, -1 if seq is None else seq)
        elif kind == "lagged":
            lagged = True
        elif kind == "open":
            lagged = False
            assert seq is None or seq >= position, f"opens at {seq} after {position}"
            position = position if seq is None or position >= 0 else seq
            assert seq in (None, position), f"opens at {seq}, reported was {position}"
        else:
            assert seq is not None
            assert seq > position or kind == "cursor", f"{seq} after {position}: twice, or out of order"
            step(seq, seq if kind == "cursor" else seq - 1)
            if kind == "event":
                to, published = log.entries[seq]
                assert data == published
                assert to is None or to & record.topics, f"{seq} was for {to}"


def what_is_missing(hub: Hub, records: list[Record], history: int) -> list[str]:
    """What has not happened yet; without it, it was no storm."""
    kinds = Counter(kind for record in records for kind, _, _ in record.seen)
    enough = {
        "reconnects": sum(record.connections for record in records) > 1.2 * CLIENTS,
        "published": hub.stats()["published"] > BURST,
        "events": kinds["event"] > 10_000,
        "lagged": kinds["lagged"] > 0,
        "overflowed": hub.stats()["overflowed"] > 0,
        "private": any(record.private for record in records),
        "resets": history > 1000 or kinds["reset"] > 0,
    }
    return [name for name, happened in enough.items() if not happened]


async def inhabit(hub: Hub, lives: list[Life], over: threading.Event, last: Future[int]) -> None:
    """Let clients live on one event loop until the storm is over; then read to the last event."""
    await asyncio.gather(*(live(hub, record, rng, over) for record, rng in lives))
    number = await asyncio.wrap_future(last)
    await asyncio.gather(*(finish(hub, record, number) for record, _ in lives))


def rage(
    hub: Hub,
    log: Log,
    lives: list[Life],
    loops: int,
    end_publishing: Callable[[], None],
    enough: Callable[[], bool],
) -> None:
    """Let the clients live, each loop in a thread, until enough has happened; then end the publications."""
    over, last = threading.Event(), Future[int]()
    with ThreadPoolExecutor(loops) as threads:
        running = [
            threads.submit(asyncio.run, inhabit(hub, lives[n::loops], over, last)) for n in range(loops)
        ]
        deadline = time.monotonic() + LONGEST
        while not wait(running, 0.2, FIRST_COMPLETED).done and not enough() and time.monotonic() < deadline:
            pass
        over.set()
        end_publishing()
        published = hub.broadcast(raw_data="last")
        number = int((published.id or "").rpartition("-")[2])
        log.entries[number] = (None, "last")
        last.set_result(number)
        for thread in running:
            thread.result()


def violations(records: list[Record], log: Log) -> list[str]:
    """What the clients whose record breaks a promise saw."""
    found = []
    for n, record in enumerate(records):
        try:
            check(record, log)
        except AssertionError as error:
            found.append(f"client {n} of {sorted(record.topics)}, {record.overflow}: {error}")
    return found


@pytest.mark.parametrize(("loops", "history"), [(1, 60), (4, 25 * BURST)])
def test_a_storm_loses_nothing_silently_and_repeats_nothing(loops: int, history: int) -> None:
    seed = int(os.environ.get("STORM_SEED", random.randrange(2**32)))
    print(f"STORM_SEED={seed}")
    rng = random.Random(seed)
    hub = Hub(history=history, heartbeat=0.2, reconnect=(0, 0))

    @hub.on_connect
    def joined(subscription: Subscription) -> None:
        subscription.info.head = hub.stats()["cursor"]

    log, lock, stop = Log(), threading.Lock(), threading.Event()
    records = [
        Record(
            frozenset(rng.sample(TOPICS, rng.randint(1, 4))),
            rng.choice(["disconnect", "disconnect", "drop_oldest", "drop_newest"]),
        )
        for _ in range(CLIENTS)
    ]
    seeds = [rng.randrange(2**32) for _ in range(CLIENTS + PUBLISHERS)]
    publishers = [
        threading.Thread(target=publish, args=(hub, log, lock, seeds[n], stop, n)) for n in range(PUBLISHERS)
    ]

    def end_publishing() -> None:
        stop.set()
        for thread in publishers:
            thread.join()

    for thread in publishers:
        thread.start()
    lives = [(record, random.Random(s)) for record, s in zip(records, seeds[PUBLISHERS:], strict=True)]
    try:
        rage(hub, log, lives, loops, end_publishing, lambda: not what_is_missing(hub, records, history))
    finally:
        end_publishing()
    assert sorted(log.entries) == list(range(1, len(log.entries) + 1))
    found = violations(records, log)
    assert not found, f"STORM_SEED={seed}\n" + "\n".join(found[:10])
    assert what_is_missing(hub, records, history) == []
    if history > 1000:
        assert not any(kind == "reset" for record in records for kind, _, _ in record.seen)
