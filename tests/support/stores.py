"""What the tests of every broker run over."""

from __future__ import annotations

from typing import TypeAlias

from file_server import FileServer
from redis_server import RedisServer

Store: TypeAlias = RedisServer | FileServer
