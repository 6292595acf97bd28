"""Every stream in progress, with the loop and the server that it ends with.

The registry holds its entries weakly. A stream that its server carries is kept alive by the frame of the
running response, so a response that is dropped without being finished (a loop closed under it) leaves
nothing behind. Handed-off streams are kept alive by their server's entry, and that entry by the server.

Servers may run in several threads. The methods of sets are atomic, so the sets here need no lock.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope

from sse_hub._stopping.stoppable import Stoppable

__all__ = ["WORK", "Registration", "RunningServer", "registered", "running_server", "stops", "switch"]

logger = logging.getLogger("sse_hub")


class RunningServer:
    """One server that hands connections off, from its first offer on.

    Its handed-off streams belong to one of two groups of their hub. Groups end separately: streams of
    ``switched_group`` also end with ``AppStatus``. Group numbers are never reused in this process.
    """

    __slots__ = ("__weakref__", "group", "handed", "loop", "stopping", "switched_group")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.group = next(_groups)
        self.switched_group = next(_groups)
        self.stopping = False
        # The registrations of its handed-off streams, by hub and group. None of them refers to this entry.
        self.handed: weakref.WeakKeyDictionary[Any, dict[int, Registration]] = weakref.WeakKeyDictionary()


_groups = itertools.count(1)
WORK = 0  # the group of what is no stream, and ends with the last server of its loop
_lock = threading.Lock()
# By the server's own state object: an entry goes with its server, to which nothing here refers strongly.
_running: weakref.WeakKeyDictionary[Any, RunningServer] = weakref.WeakKeyDictionary()


def running_server(state: Any) -> RunningServer:
    """The entry of the server with this state object. Call it on the server's loop."""
    known = _running.get(state)
    if known is None:
        with _lock:
            known = _running[state] = RunningServer(asyncio.get_running_loop())
    return known


_NO_SCOPE: Scope = {}


async def _receives_nothing() -> Message:
    raise NotImplementedError("a handed-off stream has no request")


class Registration:
    """A stoppable in the registry.

    ``scope`` and ``receive`` are what the response was called with: a stopping server uses them to find the
    streams that it carries. Handed-off streams have their ``group`` instead, and work has ``WORK``.
    ``switched`` says that ``AppStatus`` ends these streams too.
    """

    __slots__ = ("__weakref__", "_ref", "group", "loop", "receive", "scope", "stoppable", "switched")

    def __init__(
        self,
        stoppable: Stoppable,
        loop: asyncio.AbstractEventLoop,
        *,
        scope: Scope = _NO_SCOPE,
        receive: Receive = _receives_nothing,
        group: int | None = None,
        switched: bool = False,
    ) -> None:
        self.stoppable = stoppable
        self.loop = loop
        self.scope = scope
        self.receive = receive
        self.group = group
        self.switched = switched
        self._ref: weakref.ref[Registration] = weakref.ref(self, _forget)

    def register(self) -> None:
        """Enter the registry. A switch or a server that is ending its streams ends these as well."""
        _registry.add(self._ref)
        if self.switched and switch.ends_all:
            self.end()
        if _stops:
            for ref in list(_stops):
                if (stop := ref()) is not None:
                    stop.join(self)

    def unregister(self) -> None:
        """Leave the registry. Idempotent."""
        _registry.discard(self._ref)

    def is_registered(self) -> bool:
        return self._ref in _registry

    def drains(self) -> bool:
        """Whether these streams end when their server stops."""
        return switch.drains or not self.switched

    def stop(self) -> None:
        """Ask the streams to end with their server, if they are still registered."""
        self._ask(self.stoppable.stop)

    def end(self) -> None:
        """Ask the streams to end although their server goes on, if they are still registered."""
        self._ask(self.stoppable.end)

    def end_threadsafe(self) -> None:
        """The same from any thread."""
        if self.group is not None:  # handed-off streams need no loop to end
            self.end()
            return
        with suppress(RuntimeError):  # the loop has been closed under the stream
            self.loop.call_soon_threadsafe(self.end)

    def _ask(self, to_end: Callable[[], None]) -> None:
        if self._ref in _registry:
            try:
                to_end()
            except Exception:
                logger.exception("streams could not be stopped; they are aborted after their grace")


_registry: set[weakref.ref[Registration]] = set()
_forget = _registry.discard  # bound once: each weak reference keeps its callback


def registered() -> list[Registration]:
    """Everything in the registry."""
    return [registration for ref in list(_registry) if (registration := ref()) is not None]


class Stop(Protocol):
    """A server's stop in progress."""

    def join(self, registration: Registration) -> None:
        """End streams that were registered while their server was already stopping."""


# Weak, so that a server that disappears without finishing its shutdown takes its entry with it.
_stops: set[weakref.ref[Any]] = set()


def stops(stop: Stop) -> Callable[[], None]:
    """Make streams that are registered from now on join ``stop``, until the returned function is called."""
    ref: weakref.ref[Any] = weakref.ref(stop, _stops.discard)
    _stops.add(ref)
    switch.server_stops(+1)
    # A garbage collection, on any thread, may find that the server is gone.
    over = weakref.finalize(stop, switch.server_stops, -1)
    over.atexit = False

    def end() -> None:
        _stops.discard(ref)
        over()

    return end


class Switch:
    """The state behind ``AppStatus``, and how many servers of this process are stopping."""

    __slots__ = ("_lock", "drains", "ends_all", "servers_stopping")

    def __init__(self) -> None:
        self.drains = True
        self.ends_all = False
        self.servers_stopping = 0
        self._lock = threading.RLock()  # reentrant: a garbage collection may run a finalizer inside it

    def server_stops(self, change: int) -> None:
        with self._lock:
            self.servers_stopping += change

    def end_all(self, value: bool) -> None:
        """Set whether every switched stream ends, including those that are registered later."""
        self.ends_all = value
        if value:
            for registration in registered():
                if registration.switched:
                    registration.end_threadsafe()


switch = Switch()
