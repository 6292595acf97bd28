"""How the pages of a long replay are fetched from Redis."""

from __future__ import annotations

from redis_server import RedisServer
from redis_workers import Pair, listening
from sse_hub import Hub
from stores import publish


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
