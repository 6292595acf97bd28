"""A network between hubs and their Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_server import Proxy, RedisServer


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[Proxy]:
    """A proxy in front of the test's Redis."""
    with Proxy(redis.port) as proxy:
        yield proxy
