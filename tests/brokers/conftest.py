"""The brokers that tests run over, and a network between hubs and their Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from file_server import FileServer
from redis_server import Proxy, RedisServer


@pytest.fixture(params=["redis", "file"])
def store(request: pytest.FixtureRequest) -> Iterator[RedisServer | FileServer]:
    """What the hubs of one test share: a redis-server, or a directory."""
    with RedisServer() if request.param == "redis" else FileServer() as store:
        yield store


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[Proxy]:
    """A proxy in front of the test's Redis."""
    with Proxy(redis.port) as proxy:
        yield proxy
