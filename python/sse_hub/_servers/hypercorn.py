"""hypercorn's asyncio and uvloop workers.

A worker is one coroutine, ``worker_serve``, and one ``WorkerContext``, whose event ``terminated`` is set
when it begins to stop; afterwards it waits ``graceful_timeout`` seconds for its connections and cancels the
rest, for which Python 3.11 prints tracebacks. Nothing leads from an application's arguments to the context,
so it is searched for in the loop's tasks, once per server; the event's ``set`` is then wrapped, on that
object only.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

from starlette.types import Scope, Send

from sse_hub._servers.base import NewStopping, Record, Stopping, frames, owners, select_by_headers

__all__ = ["HypercornServer", "find_stream", "transport_of", "watch", "workers"]

R = TypeVar("R", bound=Record)

# The servers (by the address in the scope) that each loop was searched for.
_searched: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, set[Any]] = weakref.WeakKeyDictionary()


class HypercornServer:
    """A hypercorn worker that begins to stop. A connection is its ``HTTPStream``."""

    state: Any | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Any, graceful_timeout: float | None) -> None:
        self._loop = loop
        self._context = context
        self.limit = None if graceful_timeout is None else max(0.0, graceful_timeout - 0.2)

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        streams: dict[int, Any] = {}
        for frame in frames(self._loop, "hypercorn", "_handle"):
            stream: Any = getattr(frame.f_locals.get("send"), "__self__", None)
            if getattr(stream, "context", None) is self._context and hasattr(stream, "scope"):
                streams[id(stream.scope.get("headers"))] = stream
        return select_by_headers(records, streams)

    def unflushed(self) -> Iterator[tuple[Any, float]]:
        return iter(())  # hypercorn's sends wait until the peer has taken enough

    def is_last(self) -> bool:
        return True

    def hold(self, task: asyncio.Task[None]) -> None:
        """hypercorn waits for no task of others."""

    def abort(self, connections: list[Any]) -> None:
        for stream in connections:
            if (transport := transport_of(stream)) is not None:
                transport.abort()


def find_stream(send: Send) -> Any | None:
    """The ``HTTPStream`` behind ``send``, if there is one; its ``closed`` says that the client left."""
    return next((owner for owner in owners(send, "send") if hasattr(owner, "app_put")), None)


def transport_of(stream: Any | None) -> Any | None:
    """The transport of an ``HTTPStream``, if it can be reached."""
    # HTTPStream -> protocol (HTTP/1 or 2) -> TCPServer: each holds a bound method of the next.
    protocol = getattr(getattr(stream, "send", None), "__self__", None)
    server = getattr(getattr(protocol, "send", None), "__self__", None)
    return getattr(getattr(server, "writer", None), "transport", None)


def workers(loop: asyncio.AbstractEventLoop) -> int | None:
    """How many worker processes the hypercorn server of this loop has; None if there is none."""
    for frame in frames(loop, "hypercorn", "worker_serve"):
        number = getattr(frame.f_locals.get("config"), "workers", None)
        if isinstance(number, int):
            return number
    return None


def watch(loop: asyncio.AbstractEventLoop, scope: Scope, stopping: NewStopping) -> None:
    """Call ``stopping`` when the hypercorn worker behind this scope, if it is one, begins to stop."""
    searched = _searched.get(loop)
    if searched is None:
        searched = _searched.setdefault(loop, set())
    address = scope.get("server")
    key = tuple(address) if isinstance(address, list) else address
    if key in searched:
        return
    searched.add(key)
    for frame in frames(loop, "hypercorn", "worker_serve"):
        context = frame.f_locals.get("context")
        event = getattr(context, "terminated", None)
        if hasattr(event, "set") and "set" not in vars(event):
            timeout = getattr(frame.f_locals.get("config"), "graceful_timeout", None)
            _wrap(event, stopping(HypercornServer(loop, context, timeout)), loop)


def _wrap(event: Any, streams: Stopping, loop: asyncio.AbstractEventLoop) -> None:
    set_event = event.set

    @functools.wraps(set_event)
    async def stop_streams_and_set() -> None:
        await set_event()
        # The next server on this loop may get the same address.
        _searched.pop(loop, None)
        # In the loop's next turn: by then hypercorn has closed its listeners, so no client comes back too
        # early.
        loop.call_soon(streams.begin)

    event.set = stop_streams_and_set
