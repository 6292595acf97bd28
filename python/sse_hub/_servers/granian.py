"""granian's workers: processes, or threads where Python is free-threaded.

A worker ends when its ``WorkerSignal`` is set. In a process, SIGTERM and SIGINT set it through the loop's
``add_signal_handler``; here a handler takes their place that ends the streams, too. It sets the
``WorkerSignal`` once: a third ``set`` waits, with the GIL, until the worker's connections are closed, so for
ever. Ctrl-C leads to two (SIGINT, and SIGTERM from the main process), a second Ctrl-C to a third, and uvloop
reports a signal twice that arrives while it handles another. A worker thread is ended by ``terminate`` of an
object of the main thread; that method is wrapped, on that object only.

granian then waits for its connections without a limit of its own. Before a worker ends, it awaits
``shutdown`` of its lifespan's handler, to which, as to the ``WorkerSignal``, the stack of the worker's thread
leads. That method is wrapped, on that object only, and waits for runs. Without a lifespan
(``--interface asginl``) granian waits for nothing.

Connections live in Rust and have no handle in Python. A connection that remains is found among the process's
own descriptors by its two addresses, and shut down there: granian sees a peer that left.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias, TypeVar

from starlette.types import Scope

from sse_hub._servers.base import Holds, NewStopping, Record, Stopping
from sse_hub._servers.uvicorn import find_cycle

__all__ = ["Address", "GranianServer", "addresses_of", "find_descriptors", "serves_here", "watch"]

R = TypeVar("R", bound=Record)

_SOON = 0.05  # seconds after which a worker thread that is still starting is searched again
_TRIES = 1200  # a minute

# The loops whose worker, if they are one's, was found.
_searched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


class GranianServer:
    """A granian worker that begins to stop. A connection is its two addresses, from the scope."""

    state: Any | None = None
    limit: float | None = None

    def __init__(self) -> None:
        self.holds = Holds()

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        for record in records:
            if find_cycle(record.receive) is None:  # no uvicorn inside this process
                yield record, addresses_of(record.scope)

    def unflushed(self) -> Iterator[tuple[Any, float]]:
        return iter(())  # while it stops, granian closes each connection whose response is complete

    def is_last(self) -> bool:
        return True

    def hold(self, task: asyncio.Task[None]) -> None:
        self.holds.add(task)

    def abort(self, connections: list[Any]) -> None:
        for descriptor in find_descriptors(set(connections)).values():
            with suppress(OSError), _borrowed(descriptor) as sock:
                sock.shutdown(socket.SHUT_RDWR)


Address: TypeAlias = tuple[object, object]
"""A connection's two addresses: the client's and the server's."""


def addresses_of(scope: Scope) -> Address:
    """Those of the connection behind a scope."""
    return _address(scope.get("client")), _address(scope.get("server"))


def find_descriptors(wanted: Set[Address], among: Iterable[int] | None = None) -> dict[Address, int]:
    """The descriptors of connections, among all of the process. Three calls of the kernel for each one."""
    if among is None:
        try:
            among = [int(name) for name in os.listdir("/dev/fd")]
        except OSError:
            return {}
    found: dict[Address, int] = {}
    for descriptor in among:
        with suppress(OSError), _borrowed(descriptor) as sock:
            address = _address(sock.getpeername()), _address(sock.getsockname())
            if address in wanted:
                found[address] = descriptor
    return found


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A descriptor as a socket. Raises OSError if it is none; it stays open anyway."""
    sock = socket.socket(fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()


def _address(value: Any) -> tuple[str, str] | object:
    """Host and port for comparison (granian's port is a string); without them, equal to nothing."""
    return (str(value[0]), str(value[1])) if isinstance(value, list | tuple) and len(value) >= 2 else object()


def watch(loop: asyncio.AbstractEventLoop, stopping: NewStopping, tries: int = _TRIES) -> None:
    """Call ``stopping`` when the granian worker that serves on this loop, if it is one, begins to stop."""
    if loop in _searched:
        return
    frame = _worker()
    if frame is None:
        _searched.add(loop)
        return
    in_process = threading.current_thread() is threading.main_thread()
    owner = None if in_process else _owner_of_this_thread()
    if owner is None and not in_process:
        # The worker is starting. A run of the lifespan may be all that ever leads here.
        if tries:
            loop.call_later(_SOON, watch, loop, stopping, tries - 1)
        return
    _searched.add(loop)
    server = GranianServer()
    streams = stopping(server)
    if hasattr(lifespan := frame.f_locals.get("lifespan_handler"), "shutdown"):
        _wait_before_shutdown(lifespan, server.holds)
    if in_process:
        _handle_signals(loop, _Stop(streams, frame.f_locals["shutdown_event"]))
    else:
        _wrap_terminate(loop, owner, streams)


def serves_here() -> bool:
    """Whether this is called on the loop of a granian worker, from a request."""
    return _worker() is not None


def _worker() -> FrameType | None:
    """The frame of the granian worker that this thread is."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "granian" and hasattr(frame.f_locals.get("shutdown_event"), "set"):
            return frame
        frame = frame.f_back
    return None


def _owner_of_this_thread() -> Any | None:
    """The object by which the main thread ends this worker thread. A thread that joins this one has it."""
    for thread in threading.enumerate():
        owner = getattr(getattr(thread, "_target", None), "__self__", None)
        if getattr(owner, "inner", None) is threading.current_thread() and hasattr(owner, "terminate"):
            return owner
    return None


def _wait_before_shutdown(lifespan: Any, holds: Holds) -> None:
    shutdown = lifespan.shutdown

    @functools.wraps(shutdown)
    async def wait_and_shut_down() -> None:
        await holds.ended()
        await shutdown()

    lifespan.shutdown = wait_and_shut_down


def _wrap_terminate(loop: asyncio.AbstractEventLoop, owner: Any, streams: Stopping) -> None:
    terminate = owner.terminate

    @functools.wraps(terminate)
    def stop_streams_and_terminate() -> None:
        with suppress(RuntimeError):  # the worker has ended
            loop.call_soon_threadsafe(streams.begin)
        terminate()

    owner.terminate = stop_streams_and_terminate
    if getattr(owner, "interrupt_by_parent", False):  # it was ended before its streams were known
        streams.begin()


class _Stop:
    """What the signals of a worker process do, the first time."""

    def __init__(self, streams: Stopping, shutdown_event: Any) -> None:
        self._streams = streams
        self._event = shutdown_event
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._streams.begin()
            self._event.set()


def _handle_signals(loop: asyncio.AbstractEventLoop, stop: _Stop) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows, where granian itself uses signal.signal
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
            continue
        if previous is not None:  # one of the application, perhaps; the loop's own is the same again
            signal.signal(number, previous)
            # As add_signal_handler does: system calls are restarted.
            signal.siginterrupt(number, False)
