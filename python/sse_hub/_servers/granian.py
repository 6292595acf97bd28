"""granian's worker processes.

A worker process handles SIGTERM and SIGINT through its loop's ``add_signal_handler``; granian then waits
for its connections without a limit of its own. The handler is chained at the level of ``signal.signal``,
below the loop's handler, which is called as before; the loop still reads the signal from its wake-up
descriptor. Before the worker ends, it awaits ``shutdown`` of its lifespan's handler, an object to which the
stack of the main thread leads. That method is wrapped, on that object only, and waits for runs. Without a
lifespan (``--interface asginl``) granian waits for nothing.

Connections live in Rust and have no handle in Python. A connection that remains is found among the process's
own descriptors by its two addresses, and shut down there: ``shutdown(2)`` through a duplicate reaches the
connection, and granian sees it as a peer that left.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

from sse_hub._servers.base import Holds, NewStopping, Record, Stopping
from sse_hub._servers.uvicorn import find_cycle

__all__ = ["GranianServer", "watch"]

R = TypeVar("R", bound=Record)


class GranianServer:
    """A granian worker process that begins to stop. A connection is its two addresses, from the scope."""

    state: Any | None = None
    limit: float | None = None

    def __init__(self) -> None:
        self.holds = Holds()

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        for record in records:
            if find_cycle(record.receive) is None:  # no uvicorn inside this process
                yield record, (_address(record.scope.get("client")), _address(record.scope.get("server")))

    def unflushed(self) -> Iterator[tuple[Any, float]]:
        return iter(())  # while it stops, granian closes each connection whose response is complete

    def is_last(self) -> bool:
        return True

    def hold(self, task: asyncio.Task[None]) -> None:
        self.holds.add(task)

    def abort(self, connections: list[Any]) -> None:
        try:
            descriptors = [int(name) for name in os.listdir("/dev/fd")]
        except OSError:
            return
        wanted = set(connections)
        for descriptor in descriptors:
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as sock:
                if (_address(sock.getpeername()), _address(sock.getsockname())) in wanted:
                    sock.shutdown(socket.SHUT_RDWR)


def _address(value: Any) -> tuple[str, str] | object:
    """Host and port for comparison (granian's port is a string); without them, equal to nothing."""
    return (str(value[0]), str(value[1])) if isinstance(value, list | tuple) and len(value) >= 2 else object()


def watch(loop: asyncio.AbstractEventLoop, stopping: NewStopping) -> None:
    """Call ``stopping`` when this process begins to stop, if it is a granian worker."""
    if threading.current_thread() is not threading.main_thread():
        return  # worker threads (free-threaded Python) or an embedded server: they handle no signals
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Handler) or multiprocessing.current_process().name != "granian-worker":
        return
    server = GranianServer()
    streams = stopping(server)
    if (lifespan := _lifespan()) is not None:
        _wait_before_shutdown(lifespan, server.holds)
    for number in (signal.SIGTERM, signal.SIGINT):
        previous = signal.getsignal(number)
        if callable(previous):
            signal.signal(number, _Handler(loop, streams, previous))
            # As the loop's own add_signal_handler does: system calls are restarted.
            signal.siginterrupt(number, False)


def _lifespan() -> Any | None:
    """granian's handler of the lifespan, if this worker has one."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "granian":
            handler = frame.f_locals.get("lifespan_handler")
            if hasattr(handler, "shutdown"):
                return handler
        frame = frame.f_back
    return None


def _wait_before_shutdown(lifespan: Any, holds: Holds) -> None:
    shutdown = lifespan.shutdown

    @functools.wraps(shutdown)
    async def wait_and_shut_down() -> None:
        await holds.ended()
        await shutdown()

    lifespan.shutdown = wait_and_shut_down


class _Handler:
    """A signal handler that begins to stop the streams and calls the previous handler."""

    def __init__(self, loop: asyncio.AbstractEventLoop, streams: Stopping, previous: Any) -> None:
        self._loop = loop
        self._streams = streams
        self._previous = previous

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._streams.begin)
        self._previous(number, frame)
