"""What is known of the ASGI servers' insides; nothing else in the package knows it.

One module per server. Each notices, with what that server happens to have, that it begins to stop, tells
which responses are its own, and aborts a connection if it can be reached. Everything is looked up, never
assumed: where another version has something else, the server is left alone and ends streams in its own way,
which ``docs/stopping.md`` describes.
"""

from __future__ import annotations

import os
import sys
from asyncio import AbstractEventLoop

from starlette.types import Receive, Scope

from sse_hub._servers import granian, hypercorn, uvicorn
from sse_hub._servers.base import Record, Server, Stopping

__all__ = ["Record", "Server", "Stopping", "watch", "workers"]


def watch(loop: AbstractEventLoop, scope: Scope, stopping: type[Stopping]) -> None:
    """See to it that ``stopping`` is used when the server that serves this response begins to stop.

    Called for every response, so it only looks at the servers that this process has loaded.
    """
    if (module := sys.modules.get("uvicorn.server")) is not None:
        uvicorn.watch(module, loop, stopping)
    if "hypercorn.asyncio.run" in sys.modules:
        hypercorn.watch(loop, scope, stopping)
    if "granian" in sys.modules:
        granian.watch(loop, stopping)


def workers(receive: Receive) -> int:
    """How many processes serve the same application, as uvicorn or else the environment knows."""
    known = uvicorn.workers(receive)
    if known is not None:
        return known
    number = os.environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdecimal() else 1
