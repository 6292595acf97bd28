"""The stop of one server: end its streams, then abort what remains of them.

No ASGI message tells an application that its server is stopping: uvicorn waits for open connections
*before* it runs the lifespan's shutdown, so an endless response would keep it alive for ever. A server's
module in ``sse_hub._servers`` notices the stop and makes a :class:`ServerStop`::

    noticed --begin, in the loop's next turn--> every stream: stop()
        |--after the stream's grace, or a little before the server's own timeout--> abort
        '--end: the server's shutdown is over--> nothing is left

Only connections that carry such a stream are touched. If a server's internals are not those that its module
knows, streams end when the server ends them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sse_hub import _servers
from sse_hub._stopping.registry import WORK, Registration, registered, running_server, stops

__all__ = ["ServerStop"]

logger = logging.getLogger("sse_hub")

_FOR_EVER = 10.0**8  # three years: uvloop's timers do not accept infinity
_POLL = 0.02  # seconds between two checks of handed-off streams and work that are ending
_AFTER_ABORT = 1.0  # seconds that these may take to disappear after they were aborted
_AFTER_ABORT_LIMITED = 0.1  # the same under a server with a timeout of its own


class ServerStop:
    """One server that is stopping. Created on its loop; streams that begin later are not handed off."""

    def __init__(self, server: _servers.Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._holds: set[asyncio.Task[None]] = set()
        self._end: Callable[[], None] | None = None
        self._running = None if server.state is None else running_server(server.state)
        if self._running is not None:
            self._running.stopping = True

    def begin(self) -> None:
        """Stop every stream of this server, once."""
        if self._end is not None:
            return
        self._end = stops(self)
        here = [registration for registration in registered() if registration.loop is self._loop]
        by_grace: dict[float, list[tuple[Registration | None, Any]]] = {}
        carried = [registration for registration in here if registration.group is None]
        # pyright takes a callable in a slot for a method of the class.
        for registration, connection in self._server.select(carried):  # pyright: ignore[reportArgumentType]
            by_grace.setdefault(self._grace(registration), []).append((registration, connection))
            if registration.drains():
                registration.stop()
        for connection, grace in self._server.unflushed():
            by_grace.setdefault(self._limited(grace), []).append((None, connection))
        for grace, streams in by_grace.items():
            self._abort_after(grace, streams)
        ours = [registration for registration in here if self._handed_off(registration)]
        work = [registration for registration in here if registration.group == WORK]
        if work and self._server.is_last():
            ours += work
        for registration in ours:
            self._hold_for(registration)

    def join(self, registration: Registration) -> None:
        """Stop streams that were registered while their server was already stopping."""
        if registration.loop is not self._loop:
            return
        is_work = registration.group == WORK and self._server.is_last()
        if is_work or self._handed_off(registration):
            self._hold_for(registration)
        if registration.group is not None:
            return
        for _, connection in self._server.select([registration]):  # pyright: ignore[reportArgumentType]
            if registration.drains():
                self._loop.call_soon(registration.stop)
            self._abort_after(self._grace(registration), [(registration, connection)])

    def end(self) -> None:
        """The server's shutdown is over: what is left is dropped at once."""
        if self._end is not None:
            self._end()
        for timer in self._timers:
            timer.cancel()
        for hold in list(self._holds):
            hold.cancel()

    def _grace(self, registration: Registration) -> float:
        return self._limited(registration.stoppable.grace if registration.drains() else _FOR_EVER)

    def _limited(self, grace: float) -> float:
        limit = self._server.limit
        return max(0.0, grace if limit is None else min(grace, limit))

    # Streams that the server carries: it waits for their connections itself.

    def _abort_after(self, grace: float, streams: list[tuple[Registration | None, Any]]) -> None:
        self._timers.append(self._loop.call_later(grace, self._abort, streams))

    def _abort(self, streams: list[tuple[Registration | None, Any]]) -> None:
        self._server.abort([connection for _, connection in streams if connection is not None])
        for registration, connection in streams:
            if connection is None and registration is not None and registration.is_registered():
                registration.stoppable.abort()

    def _handed_off(self, registration: Registration) -> bool:
        """Whether these are streams that this server handed off."""
        running = self._running
        return running is not None and registration.group in (running.group, running.switched_group)

    # Handed-off streams and work: the server knows nothing of them, so a task makes it wait for them.

    def _hold_for(self, registration: Registration) -> None:
        hold = self._loop.create_task(self._see_out(registration))
        self._holds.add(hold)
        hold.add_done_callback(self._holds.discard)
        self._server.hold(hold)

    async def _see_out(self, registration: Registration) -> None:
        streams = registration.stoppable
        try:
            if registration.drains():
                registration.stop()
            if not await self._finished(registration, self._grace(registration)):
                streams.abort()
                limited = self._server.limit is not None
                await self._finished(registration, _AFTER_ABORT_LIMITED if limited else _AFTER_ABORT)
        except asyncio.CancelledError:  # the server no longer waits: a second Ctrl-C, or its own timeout
            streams.abort()
            raise
        except Exception:
            logger.exception("streams or runs could not be stopped; they end with the process")

    async def _finished(self, registration: Registration, seconds: float) -> bool:
        until = self._loop.time() + seconds
        while not registration.stoppable.finished():
            if self._loop.time() >= until:
                return False
            await asyncio.sleep(_POLL)
        return True
