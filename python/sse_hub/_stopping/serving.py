"""A stream and the server it is served by: how it learns that the server stops, and that its client left.

No ASGI message tells an application that its server is stopping: uvicorn waits for open connections
*before* it runs the lifespan's shutdown, so an endless response would keep it alive for good. What ends
such a stream is here, and what is known of each server's inside is in ``_servers``. A response registers
itself for its own time::

    with serving(scope, receive, stream):
        ...send the body...

When its server begins to stop, ``stream.stop()`` is called; what still holds a connection after
``stream.grace`` seconds (a client that stopped reading) has that connection aborted, so that the server's
own wait ends. Only connections that carry such a stream are touched. Nothing here outlives a server, starts
a thread, or does anything at import; where a server's inside is not what we know, streams simply end when
the server ends them.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Receive, Scope

from sse_hub import _servers
from sse_hub._servers.uvicorn import abort_cycle, find_cycle, note_unflushed
from sse_hub._stopping.app_status import server_stops

__all__ = ["Serving", "Stream", "abort", "serving"]

logger = logging.getLogger("sse_hub")


class Stream(Protocol):
    """What a response gives to :func:`serving`: something that can be asked to end."""

    @property
    def grace(self) -> float:
        """Seconds it may take to end by itself after :meth:`stop`; read when its server begins to stop."""

    def stop(self) -> None:
        """End soon: the server is stopping.

        Called on the stream's own loop, outside any task of its own; must return at once, must not raise,
        and may be called more than once, also when the stream has already ended.
        """


class Serving:
    """One response in progress, as its server's shutdown sees it. Made by :func:`serving`.

    The registry holds it weakly: the running response's frame is what keeps it alive, so a response that is
    dropped without being finished (a loop closed under it) leaves nothing behind.
    """

    __slots__ = ("__weakref__", "_ref", "loop", "receive", "scope", "stream")

    def __init__(self, scope: Scope, receive: Receive, stream: Stream) -> None:
        self._ref: weakref.ref[Serving] | None
        self.scope = scope
        self.receive = receive
        self.stream = stream

    def __enter__(self) -> None:
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:  # trio: no server of ours to hear from
            self._ref = None
            return
        # The set's own methods are atomic, so streams on several loops (threads) share it without a lock.
        self._ref = weakref.ref(self, _forget)
        _registry.add(self._ref)
        _servers.watch(self.loop, self.scope, _Stopping)
        if _stopping:
            for ref in list(_stopping):
                if (stopping := ref()) is not None:
                    stopping.join(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ref is not None:
            _registry.discard(self._ref)
            note_unflushed(self.receive, self.stream.grace)

    def stop(self) -> None:
        """Ask the stream to end, if it still runs."""
        if self._ref in _registry:
            try:
                self.stream.stop()
            except Exception:
                logger.exception("a stream could not be stopped")


_registry: set[weakref.ref[Serving]] = set()
_forget = _registry.discard  # bound once: each weak reference keeps its callback


def serving(scope: Scope, receive: Receive, stream: Stream) -> Serving:
    """Register ``stream`` with the server that serves it while the ``with`` block runs.

    Use it around the sending of the body, on the loop that serves it. It costs about a microsecond and 250
    bytes. When the server begins to stop, ``stream.stop()`` is called on this loop, at once or (for a
    stream that begins while its server is already stopping) on the loop's next turn. A connection that is
    still open ``stream.grace`` seconds later is aborted where the server allows it (see
    ``docs/stopping.md``).

    ``scope`` and ``receive`` are those the response was called with; middleware may have wrapped either.
    """
    return Serving(scope, receive, stream)


def abort(receive: Receive) -> bool:
    """Abort the connection behind ``receive`` at once, dropping what waits to be written to it.

    For a peer that stopped reading: an orderly close waits until the peer has taken everything, so for
    ever. Under uvicorn it is reached through most middleware too; returns False where it cannot be reached
    (other servers), and then nothing happened. Call it on the connection's own loop.
    """
    cycle = find_cycle(receive)
    return cycle is not None and abort_cycle(cycle)


class _Stopping:
    """One server on its way out: stops its streams, then aborts those of their connections that remain."""

    def __init__(self, server: _servers.Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._ref: weakref.ref[_Stopping] | None = None
        self._over: Callable[[], object] | None = None

    def begin(self) -> None:
        """Stop every stream of this server, once."""
        if self._ref is not None:
            return
        self._ref = weakref.ref(self, _stopping.discard)
        _stopping.add(self._ref)
        self._over = server_stops(self)
        records = [record for ref in list(_registry) if (record := ref()) and record.loop is self._loop]
        by_grace: dict[float, list[Any]] = {}
        for record, connection in self._server.select(records):
            by_grace.setdefault(record.stream.grace, []).append(connection)
            record.stop()
        for connection, grace in self._server.unflushed():
            by_grace.setdefault(grace, []).append(connection)
        for grace, connections in by_grace.items():
            self._abort_after(grace, connections)

    def join(self, record: Serving) -> None:
        """Stop a stream that began while its server was already stopping."""
        if record.loop is self._loop:
            for _, connection in self._server.select([record]):
                self._loop.call_soon(record.stop)
                self._abort_after(record.stream.grace, [connection])

    def end(self) -> None:
        """Forget everything: the server's shutdown is over."""
        if self._ref is not None:
            _stopping.discard(self._ref)
        if self._over is not None:
            self._over()
        for timer in self._timers:
            timer.cancel()

    def _abort_after(self, grace: float, connections: list[Any]) -> None:
        limit = self._server.limit
        delay = max(0.0, grace if limit is None else min(grace, limit))
        self._timers.append(self._loop.call_later(delay, self._server.abort, connections))


# Weak, so that a server that goes without a word takes its entry with it.
_stopping: set[weakref.ref[_Stopping]] = set()
