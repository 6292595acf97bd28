"""The ASGI servers' internals; nothing else in the package knows them.

One module per server; for uvicorn two more, for the hand-off and for writing to its connections. Each notices
when its server begins to stop, says which responses that server carries, and aborts a connection if it can be
reached. Nothing is assumed: a version with other internals is left alone, and ends streams in its own way,
which ``docs/stopping.md`` describes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from sse_hub._servers import granian, hypercorn, uvicorn
from sse_hub._servers.base import NewStopping, Record, Server, Stopping
from sse_hub._servers.buffers import Buffers, TransportBuffers
from sse_hub._servers.granian_buffers import GranianBuffers
from sse_hub._servers.uvicorn import abort_cycle, find_cycle, note_unflushed
from sse_hub._servers.uvicorn_handoff import serving_cycle

__all__ = [
    "Buffers",
    "Record",
    "Server",
    "Stopping",
    "abort",
    "find_buffers",
    "find_closing",
    "find_departure",
    "find_progress",
    "note_unflushed",
    "tell_of_loss",
    "watch",
    "watch_uvicorn",
    "workers",
]


def watch(loop: AbstractEventLoop, scope: Scope, stopping: NewStopping) -> None:
    """Call ``stopping`` when the server that serves this response begins to stop.

    Called for every response, so it only checks the servers that this process has loaded.
    """
    watch_uvicorn(loop, stopping)
    if "hypercorn.asyncio.run" in sys.modules:
        hypercorn.watch(loop, scope, stopping)
    if "granian" in sys.modules:
        granian.watch(loop, stopping)


def watch_uvicorn(loop: AbstractEventLoop, stopping: NewStopping) -> None:
    """Call ``stopping`` when a uvicorn server of this process begins to stop."""
    if (module := sys.modules.get("uvicorn.server")) is not None:
        uvicorn.watch(module, loop, stopping)


def abort(receive: Receive) -> bool:
    """Abort the connection behind ``receive`` at once, dropping what waits to be written to it.

    For a client that stopped reading: an orderly close waits until the client has read everything, so for
    ever. Under uvicorn the connection is reached through most middleware too. Returns False, and does
    nothing, if it cannot be reached (other servers). Call it on the connection's own loop.
    """
    cycle = find_cycle(receive)
    return cycle is not None and abort_cycle(cycle)


def tell_of_loss(scope: Scope, receive: Receive) -> None:
    """Have ``receive`` say that the client left even if the client has sent its next request by then.

    Call it in the request's task: that is where the connection is found behind middleware that hides it.
    """
    if (cycle := find_cycle(receive) or serving_cycle(scope, receive)) is not None:
        uvicorn.tell_of_loss(cycle)


def find_departure(send: Send) -> Callable[[], bool] | None:
    """A function that says whether the client behind ``send`` left; None if only ``receive`` says so.

    hypercorn sends ``http.disconnect`` once. A ``request.is_disconnected()`` beside the stream may consume
    that message, and then no other comes.
    """
    if "hypercorn.protocol.http_stream" not in sys.modules:
        return None
    stream = hypercorn.find_stream(send)
    return None if stream is None else lambda: bool(stream.closed)


def find_buffers(scope: Scope, receive: Receive, send: Send) -> Buffers | None:
    """The buffers of the connection of a request; None if it cannot be reached.

    Use them on the connection's own loop.
    """
    transport = getattr(find_cycle(receive), "transport", None)
    if transport is None and "hypercorn.protocol.http_stream" in sys.modules:
        transport = hypercorn.transport_of(hypercorn.find_stream(send))
    if transport is not None:
        return TransportBuffers(transport)
    return GranianBuffers(scope) if "granian" in sys.modules and granian.serves_here() else None


def find_progress(receive: Receive) -> Callable[[], tuple[int, int | None] | None] | None:
    """A function that says how many bytes a client has yet to acknowledge, and how many it has, or None.

    None if the connection cannot be reached. Call it on the connection's own loop.
    """
    cycle = find_cycle(receive)
    return None if cycle is None else partial(uvicorn.progress, cycle)


def find_closing(receive: Receive) -> Callable[[], bool]:
    """A function that says whether the connection behind ``receive`` is closing, if it can be reached.

    If it is, a write fails at once. The server learns of it in the loop's next turn, so a response that has
    much to send must let the loop have that turn.
    """
    transport = getattr(find_cycle(receive), "transport", None)
    is_closing: Callable[[], bool] = getattr(transport, "is_closing", _never)
    return is_closing


def _never() -> bool:
    return False


def workers(receive: Receive) -> int:
    """How many processes serve the same application, according to the server or else the environment."""
    known = uvicorn.workers(receive)
    if known is None and "hypercorn.asyncio.run" in sys.modules:
        known = hypercorn.workers(asyncio.get_running_loop())
    if known is not None:
        return known
    number = os.environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdecimal() else 1
