"""How the pages of a long replay are fetched from Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_server import RedisServer, entry_id, stream_key
from redis_workers import Listener, Pair, WorkerHub, listening, takes
from sse_hub import Hub
from waiting import PATIENCE


@pytest.fixture
def hub(redis: RedisServer, pair: Pair) -> Iterator[Hub]:
    """The same hub in the test's process, which serves nobody."""
    with Hub(redis.url, name=pair.name, history=10_000) as hub:
        yield hub


def publish(hub: Hub, *data: object, topics: str = "t") -> list[str]:
    """The ids."""
    return [str(one.result(PATIENCE)) for one in [hub.publish(topics, one) for one in data]]


def resumed(listener: Listener, data: list[object]) -> None:
    """It gets exactly this, and no reset."""
    with listening(listener):
        takes([listener], data)
        assert listener.resets == []


def fresh(pair: Pair, redis: RedisServer) -> list[WorkerHub]:
    """The hub on workers that know nothing but the stream."""
    return [worker.hub(redis.url, pair.name) for worker in pair.workers]


def reset(worker: WorkerHub, last_event_id: str, *before: object, at_once: bool = True) -> None:
    """Whoever comes with this is told that something may be missing, and goes on. What is ``before`` the
    gap may have come by then.
    """
    with listening(worker.listen(last_event_id=last_event_id)) as (client,):
        assert client.until_reset(*before)["requested"] == (last_event_id if at_once else None)
        (id,) = worker.publish(marker := f"after the reset of {client.info}")
        client.until(marker)
        assert client.last_event_id == id


def grow_old(redis: RedisServer, name: str, seconds: float) -> dict[str, str]:
    """Make everything in a hub's stream so much older; what became of each id."""
    key = stream_key(name)
    entries = redis.admin.xrange(key)
    redis.admin.delete(key)
    aged: dict[str, str] = {}

    def older(id: str) -> str:
        ms, number = entry_id(id)
        return aged.setdefault(id, f"{ms - int(seconds * 1000)}-{number}")

    for id, fields in entries:
        redis.admin.xadd(key, {**fields, "p": older(fields["p"])}, id=older(id))
    return aged


def test_large_events_are_read_in_pages_that_fit(pair: Pair) -> None:
    """Redis ends the connection of a client whose reply is larger than it may be."""
    count = 60
    with RedisServer("--client-output-buffer-limit", "normal 8mb 0 0") as redis:
        with Hub(redis.url, name=pair.name) as hub:
            ids = publish(hub, *(f"{number} {'x' * 400_000}" for number in range(count)))
        fresh = pair.workers[0].hub(redis.url, pair.name, history=10)
        with listening(fresh.listen(last_event_id=ids[0])) as (client,):
            assert [client.event().id for _ in ids[1:]] == ids[1:]
            assert client.resets == []
