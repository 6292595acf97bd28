"""Handed-off streams and the uvicorn server they came from: it stops only when they have ended.

Once a connection is handed off, uvicorn knows nothing of it and would stop without a word to its client.
So whoever takes connections over registers here, once per server, and is told when that server begins to
stop: after its listeners are closed, before the lifespan's shutdown runs. uvicorn then waits as it does for
streams of its own, because a task that waits for them is among the server's tasks.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from sse_hub._servers.base import frames

__all__ = ["HandedOff", "handed_off", "is_stopping", "server_number"]

logger = logging.getLogger("sse_hub")

_POLL = 0.02  # seconds between two looks at streams that are ending
_AFTER_ABORT = 1.0  # seconds that streams may take to be gone once they were aborted
_BEFORE_TIMEOUT = 0.2  # seconds before uvicorn's own timeout that they are aborted


class HandedOff(Protocol):
    """Streams that live outside their server. ``server`` is the number of one: only its streams are meant.

    All of it is called on that server's loop, must return at once, and may be called more than once.
    """

    @property
    def grace(self) -> float:
        """Seconds the streams may take to end by themselves; read when their server begins to stop."""

    def stop(self, server: int) -> None:
        """End soon, in order: the server is stopping."""

    def finished(self, server: int) -> bool:
        """Whether none is left."""

    def abort(self, server: int) -> None:
        """End now, whatever is still to be sent."""


class _Server:
    """One uvicorn server, from its first offer on."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.streams: weakref.WeakSet[HandedOff] = weakref.WeakSet()
        self.stopping = False
        self._loop = loop
        self._limit: float | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._holds: set[asyncio.Task[None]] = set()

    def begin(self, server: Any) -> None:
        """The server stops: no more is handed off, and what was has to end. ``server`` is uvicorn's."""
        if self.stopping:
            return
        self.stopping = True
        # Past its own timeout uvicorn cancels its tasks and logs errors.
        timeout = getattr(getattr(server, "config", None), "timeout_graceful_shutdown", None)
        self._limit = None if timeout is None else max(0.0, timeout - _BEFORE_TIMEOUT)
        self._tasks = server.server_state.tasks
        for streams in list(self.streams):
            self.stop(streams)

    def stop(self, streams: HandedOff) -> None:
        """Have ``streams`` end, in the loop's next turn, and keep uvicorn waiting for that."""
        # By then uvicorn has closed its listeners, so no client comes back too early.
        hold = self._loop.create_task(self._stop(weakref.ref(streams)))
        for tasks in (self._tasks, self._holds):
            tasks.add(hold)
            hold.add_done_callback(tasks.discard)

    async def _stop(self, ref: weakref.ref[HandedOff]) -> None:
        streams = ref()
        if streams is None:
            return
        try:
            grace = streams.grace if self._limit is None else min(streams.grace, self._limit)
            streams.stop(self.number)
            if not await self._finished(streams, grace):
                streams.abort(self.number)
                await self._finished(streams, _AFTER_ABORT if self._limit is None else _BEFORE_TIMEOUT / 2)
        except asyncio.CancelledError:  # uvicorn waits no longer: a second Ctrl-C, or its own timeout
            streams.abort(self.number)
            raise
        except Exception:
            logger.exception("handed-off streams could not be stopped")

    async def _finished(self, streams: HandedOff, seconds: float) -> bool:
        until = self._loop.time() + seconds
        while not streams.finished(self.number):
            if self._loop.time() >= until:
                return False
            await asyncio.sleep(_POLL)
        return True

    def end(self) -> None:
        """The server's shutdown is over: whatever is left goes at once."""
        for hold in list(self._holds):
            hold.cancel()


# A server's entry goes with uvicorn's `ServerState`; nothing here refers to that strongly.
_servers: weakref.WeakKeyDictionary[Any, _Server] = weakref.WeakKeyDictionary()
_by_number: weakref.WeakValueDictionary[int, _Server] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)
_lock = threading.Lock()  # servers may run in several threads
_wrapped_class: type | None = None


def server_number(state: Any) -> int:
    """A number for the uvicorn server with this ``ServerState``, never used again in the process."""
    return _server(state).number


def is_stopping(state: Any) -> bool:
    """Whether the uvicorn server with this ``ServerState`` has begun to stop."""
    return _server(state).stopping


def handed_off(server: int, streams: HandedOff) -> None:
    """Have ``streams`` told when the server with this number begins to stop; it waits until they ended.

    Call it on the server's loop for each stream that was taken over, after ``streams`` knows that stream;
    calls after the first for the same server and streams change nothing. ``streams`` is held weakly. If the
    server is stopping already, ``streams.stop(server)`` is called in the loop's next turn.

    On stopping: ``streams.stop(server)``; then, until ``streams.finished(server)`` but at most
    ``streams.grace`` seconds (less where uvicorn's own ``timeout_graceful_shutdown`` is shorter), nothing;
    then ``streams.abort(server)``. Costs about a microsecond.
    """
    known = _by_number.get(server)
    if known is not None:
        known.streams.add(streams)
        if known.stopping:
            known.stop(streams)


def _server(state: Any) -> _Server:
    known = _servers.get(state)
    if known is None:
        loop = asyncio.get_running_loop()
        with _lock:
            known = _Server(next(_numbers), loop)
            _servers[state] = _by_number[known.number] = known
            _watch(loop)
    return known


def _watch(loop: asyncio.AbstractEventLoop) -> None:
    """Wrap uvicorn's ``Server.shutdown`` unless that was done."""
    cls: Any = getattr(sys.modules.get("uvicorn.server"), "Server", None)
    if cls is _wrapped_class or not hasattr(cls, "shutdown"):
        return
    _wrap(cls)
    # The process's first stream may begin when its server is already on its way out.
    for frame in frames(loop, "uvicorn", "shutdown"):
        server = frame.f_locals.get("self")
        if isinstance(server, cls) and (known := _servers.get(server.server_state)) is not None:
            known.begin(server)


def _wrap(cls: Any) -> None:
    global _wrapped_class
    _wrapped_class = cls
    shutdown: Callable[..., Awaitable[None]] = cls.shutdown

    @functools.wraps(shutdown)
    async def stop_handed_off_and_shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
        known = _server(self.server_state)  # also if it made no offer: it may while it stops
        known.begin(self)
        try:
            await shutdown(self, *args, **kwargs)
        finally:
            known.end()

    cls.shutdown = stop_handed_off_and_shutdown
