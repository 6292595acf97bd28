"""A hub on two workers over one Redis, for tests in which Redis or the network fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis_server import RedisServer
from redis_workers import Listener, Pair, WorkerHub, listening, takes
from sse_hub import Hub
from waiting import PATIENCE, promised, until

# How long after Redis is back everybody has to be served again.
RECOVERY = 2.0
# Short, so that an outage which lasts longer takes no time.
BROKER: dict[str, Any] = {"timeout": 1.0, "connect_timeout": 1.0}
HISTORY = 10_000


@contextmanager
def scene(pair: Pair, url: str, **options: Any) -> Iterator[tuple[list[WorkerHub], tuple[Listener, ...]]]:
    """A hub on both workers, with a client on each that has seen one event."""
    hubs = [*pair.hubs(url, broker=BROKER, history=HISTORY, **options)]
    for hub in hubs:
        hub.presence()
    # A client that comes while that takes long is reset.
    are(hubs, "connected", 30)
    with listening(hubs[0].listen(), hubs[1].listen()) as clients:
        hubs[0].publish("before")
        takes(clients, ["before"])
        assert [client.seen()["path"] for client in clients] == ["loop", "reactor"]
        yield hubs, clients


def publisher(redis: RedisServer, pair: Pair) -> Hub:
    """The hub in this process, by a way of its own to Redis."""
    return Hub(redis.url, name=pair.name, history=HISTORY)


def first(hub: Hub) -> None:
    """A first event, and all of the hub's connections."""
    hub.publish("t", "first").result(PATIENCE)
    until(lambda: hub.stats()["broker"] == "connected")


def are(hubs: list[WorkerHub], state: str, seconds: float = PATIENCE) -> None:
    """They all get to say so within this time."""
    until(lambda: all(hub.state() == state for hub in hubs), seconds)


def stay(clients: tuple[Listener, ...]) -> None:
    """They are connected, and get heartbeats and nothing else."""
    for client in clients:
        for _ in range(2):
            client.heartbeat()


def served_again(back: float, hubs: list[WorkerHub], publisher: Any) -> None:
    """Publish until it works, which has to be soon after ``back``."""
    in_time = promised(RECOVERY + BROKER["timeout"])
    while True:
        (outcome,) = publisher(f"after {time.monotonic() - back:.3f}")
        assert time.monotonic() - back < in_time, f"not served again: {outcome}"
        if "id" in outcome:
            break
    are(hubs, "connected", promised(RECOVERY))
    assert time.monotonic() - back < in_time


def get_all(redis: RedisServer, pair: Pair, clients: tuple[Listener, ...], after: str) -> None:
    """Each client gets what is in the stream behind this id: in order, once, and without a reset."""
    ids = redis.ids(pair.name)
    ids = ids[ids.index(after) + 1 :] if after else ids
    for client in clients:
        assert [client.event().id for _ in ids] == ids
        client.heartbeat()
        assert client.resets == []
