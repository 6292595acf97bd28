"""hypercorn's asyncio and uvloop workers.

A worker is one coroutine, ``worker_serve``, and one ``WorkerContext``, whose event ``terminated`` is set
when it begins to stop; afterwards it waits ``graceful_timeout`` seconds for its connections and cancels the
rest, for which Python 3.11 prints tracebacks. Nothing leads from an application's arguments to the context,
so it is searched for in the loop's tasks, once per server; the event's ``set`` is then wrapped, on that
object only. A task that joins those of its connections is waited for in the same way.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

from starlette.types import Scope, Send

from sse_hub._servers.base import Holds, NewStopping, Record, Stopping, frames, owners, select_by_headers

__all__ = ["HypercornServer", "find_stream", "transport_of", "watch", "workers"]

R = TypeVar("R", bound=Record)

_SOON = 0.05  # seconds after which a server that is still starting is searched again
_TRIES = 1200  # hypercorn's default gives a lifespan one minute to start

# The servers (by the address in the scope) that each loop was searched for.
_searched: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, set[Any]] = weakref.WeakKeyDictionary()


class HypercornServer:
    """A hypercorn worker that begins to stop. A connection is its ``HTTPStream``."""

    state: Any | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Any, graceful_timeout: float | None) -> None:
        self.loop = loop
        self._context = context
        self.limit = None if graceful_timeout is None else max(0.0, graceful_timeout - 0.2)
        self.holds = Holds()

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        streams: dict[int, Any] = {}
        for frame in frames(self.loop, "hypercorn", "_handle"):
            stream: Any = getattr(frame.f_locals.get("send"), "__self__", None)
            if getattr(stream, "context", None) is self._context and hasattr(stream, "scope"):
                streams[id(stream.scope.get("headers"))] = stream
        return select_by_headers(records, streams)

    def unflushed(self) -> Iterator[tuple[Any, float]]:
        return iter(())  # hypercorn's sends wait until the peer has taken enough

    def is_last(self) -> bool:
        return True

    def hold(self, task: asyncio.Task[None]) -> None:
        self.holds.add(task)

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


def watch(loop: asyncio.AbstractEventLoop, scope: Scope, stopping: NewStopping, tries: int = _TRIES) -> None:
    """Call ``stopping`` when the hypercorn worker behind this scope, if it is one, begins to stop."""
    searched = _searched.get(loop)
    if searched is None:
        searched = _searched.setdefault(loop, set())
    address = scope.get("server")
    key = tuple(address) if isinstance(address, list) else address
    if key in searched:
        return
    for frame in frames(loop, "hypercorn", "worker_serve"):
        context = frame.f_locals.get("context")
        if context is None and tries:
            # It is starting. A run of the lifespan may be all that ever leads here.
            loop.call_later(_SOON, watch, loop, scope, stopping, tries - 1)
            return
        event = getattr(context, "terminated", None)
        if hasattr(event, "set") and "set" not in vars(event):
            timeout = getattr(frame.f_locals.get("config"), "graceful_timeout", None)
            server = HypercornServer(loop, context, timeout)
            _wrap(event, stopping(server), server, frame.f_locals.get("server_tasks"))
    searched.add(key)


def _wrap(event: Any, streams: Stopping, server: HypercornServer, tasks: Any) -> None:
    loop, set_event = server.loop, event.set

    @functools.wraps(set_event)
    async def stop_streams_and_set() -> None:
        await set_event()
        # The next server on this loop may get the same address.
        _searched.pop(loop, None)
        # In the loop's next turn: by then hypercorn has closed its listeners, so no client comes back too
        # early.
        loop.call_soon(streams.begin)
        if isinstance(tasks, set):
            # Now, because hypercorn is about to wait for these. Its first step comes after `begin`.
            waiting = loop.create_task(server.holds.ended())
            tasks.add(waiting)
            waiting.add_done_callback(tasks.discard)

    event.set = stop_streams_and_set
