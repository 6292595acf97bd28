"""Brokers connect the processes of a hub: files that all workers of a host share, or Redis Streams.

``Hub("file:events")`` or ``Hub("redis://localhost:6379")`` is enough; ``FileBroker`` and ``RedisBroker`` are
for options that a URL does not express.
"""

import os
import re
from typing import TypeAlias

from sse_hub._core import FileBroker, RedisBroker

__all__ = ["FileBroker", "RedisBroker"]

Broker: TypeAlias = FileBroker | RedisBroker

_REDIS = [
    f"{name}{tls}{way}" for name in ("redis", "valkey") for tls in ("", "s") for way in ("", "+sentinel")
]
_REDIS += ["unix", "redis+unix", "valkey+unix"]


def make_broker(given: str | Broker | None) -> Broker | None:
    """The broker for the ``broker`` argument of a hub, which may be a URL."""
    if given == "":  # an environment variable that is set to nothing
        return None
    if isinstance(given, str):
        if not re.match(r"(file|unix|(redis|valkey)s?(\+\w+)?):|[a-z+]+://", given, re.IGNORECASE):
            # What was given is not shown: it may contain a password.
            raise ValueError(
                'a broker\'s URL is "file:events", "redis://localhost:6379" or the like, not a text without'
                " such a scheme; without a broker it is None"
            )
        scheme = given.partition(":")[0]
        if scheme == "file":
            return FileBroker(given)
        if scheme not in _REDIS:
            raise ValueError(
                "a broker's URL must have the scheme file:, redis://, rediss://, valkey://, valkeys://, unix://,"
                f' redis+sentinel:// or rediss+sentinel://, not "{scheme}"'
            )
        return RedisBroker(given)
    if given is not None and not isinstance(given, FileBroker | RedisBroker):
        hint = ": give FileBroker(path) for files in a directory" if isinstance(given, os.PathLike) else ""
        kind = type(given).__name__
        raise TypeError(f"broker is a URL, a FileBroker, a RedisBroker or None, not {kind}{hint}")
    return given
