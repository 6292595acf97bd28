"""What the tests of every broker run over, and how they publish."""

from __future__ import annotations

from typing import TypeAlias

from file_server import FileServer
from redis_server import RedisServer
from sse_hub import Hub
from waiting import PATIENCE

Store: TypeAlias = RedisServer | FileServer


def publish(hub: Hub, *data: object, topics: str = "t") -> list[str]:
    """Publish each of ``data``; returns the ids, once the broker has acknowledged all."""
    return [str(one.result(PATIENCE)) for one in [hub.publish(topics, one) for one in data]]
