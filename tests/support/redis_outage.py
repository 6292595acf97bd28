"""A hub on two workers over one store, for tests in which the store or the network fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis_server import RedisServer
from redis_workers import Listener, Pair, WorkerHub, listening, takes
from sse_hub import Hub
from stores import Store
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
        # The first use begins to connect; on a busy machine its time is over before that is done.
        with suppress(AssertionError):
            hub.presence()
    # A client that comes while that takes long is reset.
    are(hubs, "connected")
    with listening(hubs[0].listen(), hubs[1].listen()) as clients:
        hubs[0].publish("before")
        takes(clients, ["before"])
        assert [client.seen()["path"] for client in clients] == ["loop", "reactor"]
        yield hubs, clients


def publisher(store: Store, pair: Pair) -> Hub:
    """The hub in this process, by a way of its own to the store."""
    return Hub(store.url, name=pair.name, history=HISTORY)


def first(hub: Hub) -> None:
    """A first event, and all of the hub's connections."""
    hub.publish("t", "first").result(PATIENCE)
    until(lambda: hub.stats()["broker"] == "connected")


def are(hubs: list[WorkerHub], state: str, seconds: float = PATIENCE) -> None:
    """They all get to say so within this time."""
    until(lambda: all(hub.state() == state for hub in hubs), seconds)


@contextmanager
def early(hubs: list[WorkerHub], ids: list[str | None], elsewhere: Hub) -> Iterator[tuple[Listener, ...]]:
    """Clients that come before the hubs are connected, for which the block waits; then each gets what is its.

    Five events with these ids are in the log. Half of the clients have the second one.
    """
    clients = [hub.listen(last_event_id=str(ids[1])) for hub in hubs]
    newcomers = [hub.listen() for hub in hubs]
    try:
        yield (*clients, *newcomers)
        elsewhere.publish("t", "end").result(PATIENCE)
        for client in clients:
            assert client.until("end") == [2, 3, 4, "end"]
            assert client.resets == []
        for client in newcomers:
            assert client.until("end")[-1] == "end"
    finally:
        for client in clients + newcomers:
            client.close()


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


def reset_once_and_on(store: Store, pair: Pair, hubs: list[WorkerHub], clients: Any, lost: str) -> None:
    """The log is the same, without its newest event: every client is reset, and gets no event twice.

    Files say it in the log, so that clients that come later are reset, too. Redis says it as well, unless it
    claims that everything is on disk before it replies; the tests' does.
    """
    for client in clients:
        client.until_reset()
    kept = store.ids(pair.name)
    gaps = kept[-1:] if store.kind == "file" else []
    assert [client.last_event_id for client in clients] == [kept[-1]] * 2
    with publisher(store, pair) as elsewhere:
        published = [str(elsewhere.publish("t", n).result(PATIENCE)) for n in range(3)]
    takes(clients, [0, 1, 2])
    for client in clients:
        assert client.resets == []
    for hub in hubs:
        # A client with a lost id is reset; one with a kept id receives the rest.
        with listening(hub.listen(last_event_id=lost), hub.listen(last_event_id=kept[0])) as (late, early):
            late.until_reset()
            rest = [id for id in kept[1:] if id not in gaps] + published
            assert [early.event().id for _ in rest] == rest
            assert len(early.resets) == len(gaps)
            hubs[0].publish(f"to all of {hub.worker.port}")
            takes([late], [f"to all of {hub.worker.port}"])
