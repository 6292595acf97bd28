"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from sse_hub.testing import Clock

pytest.register_assert_rewrite("redis_workers")

if TYPE_CHECKING:
    from redis_server import RedisServer
    from redis_workers import Pair, Worker


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still, and makes hubs that run on it."""
    return Clock()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis-server of the test's own."""
    from redis_server import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def workers() -> Iterator[list[Worker]]:
    """Two uvicorn workers; tests make their hubs in them."""
    from redis_workers import workers

    with workers() as pair:
        yield pair


@pytest.fixture
def pair(workers: list[Worker]) -> Iterator[Pair]:
    """The two workers with a fresh name for a hub."""
    from redis_workers import Pair

    pair = Pair(workers)
    try:
        yield pair
    finally:
        pair.close()
