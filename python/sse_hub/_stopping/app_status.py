"""``AppStatus``: sse-starlette's switch that ends every stream, and the streams it ends."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

__all__ = ["AppStatus", "SendTimeoutError", "handed_over", "live_streams", "server_stops"]


class SendTimeoutError(TimeoutError):
    """A client did not take an event or a ping within the response's ``send_timeout``."""


class Stoppable(Protocol):
    """A stream in progress."""

    loop: asyncio.AbstractEventLoop

    def request_stop(self) -> None:
        """End soon. Called on the stream's loop."""


# Streams in progress, on any loop. Each takes itself out at its end, so no server or loop leaves anything.
live_streams: set[Stoppable] = set()


class HandedOver(Protocol):
    """A hub with responses that it goes on with by itself."""

    def _stop_moved(self) -> None:
        """End them soon. Called on any thread."""


# Whose responses have been handed off: of those themselves nothing is left in Python.
_handed_over: set[weakref.ref[HandedOver]] = set()


def handed_over(hub: HandedOver) -> None:
    """A response of ``hub`` was handed off: the switch ends it, too."""
    _handed_over.add(weakref.ref(hub, _handed_over.discard))
    if AppStatus._ends_all:
        hub._stop_moved()


class _AppStatusMeta(type):
    """Makes the assignment ``AppStatus.should_exit = True`` take effect at once, from any thread."""

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "should_exit":
            super().__setattr__("_ends_all", bool(value))
        if name == "should_exit" and value:
            for stream in tuple(live_streams):
                with suppress(RuntimeError):  # its loop has been closed under it
                    stream.loop.call_soon_threadsafe(stream.request_stop)
            for ref in tuple(_handed_over):
                if (hub := ref()) is not None:
                    hub._stop_moved()


class AppStatus(metaclass=_AppStatusMeta):
    """A switch for the streams of the whole process, beside what their servers say themselves.

    Streams end when their server stops, without any use of this class. It is for programs that end them
    earlier, or that took over the server's signals. Class attributes only:

    * ``should_exit``: assigning True ends every ``EventSourceResponse`` in progress at once, as a stopping
      server does, and each that begins later; assign False to go on. To be read, too: while a server of
      this process stops, it is True by itself, without ending the streams of another.
    * ``enable_automatic_graceful_drain``: default True; False keeps streams open while their server stops,
      until ``should_exit`` is set.
    * ``original_handler``: what ``handle_exit`` calls in the end, or None, the default. No server is
      patched, so nothing is kept here unless the program does.
    """

    should_exit: bool = False
    _ends_all: bool = False  # the program's own assignment, without what servers say
    enable_automatic_graceful_drain: bool = True
    original_handler: Callable[..., Any] | None = None

    @staticmethod
    def disable_automatic_graceful_drain() -> None:
        """Keep streams open while their server stops.

        The server then waits for them, for ever or until its own limit: set ``should_exit`` to end them.
        """
        AppStatus.enable_automatic_graceful_drain = False

    @staticmethod
    def enable_automatic_graceful_drain_mode() -> None:
        """End streams when their server stops: the default, and the opposite of the above."""
        AppStatus.enable_automatic_graceful_drain = True

    @staticmethod
    def handle_exit(*args: Any, **kwargs: Any) -> None:
        """A signal handler: ends the streams, unless draining is disabled; calls ``original_handler``."""
        if AppStatus.enable_automatic_graceful_drain:
            AppStatus.should_exit = True
        if AppStatus.original_handler is not None:
            AppStatus.original_handler(*args, **kwargs)


# Servers may run in several threads; and a collection of garbage, anywhere, may tell that one is gone.
_lock = threading.RLock()
_servers_that_stop = 0


def server_stops(owner: object) -> Callable[[], object]:
    """Have ``AppStatus.should_exit`` say that a server stops, until the result is called.

    Or until ``owner`` is gone. It is only said: that server's streams are ended by other means, and those
    of another server go on.
    """
    _count_stopping(1)
    over = weakref.finalize(owner, _count_stopping, -1)
    over.atexit = False
    return over


def _count_stopping(change: int) -> None:
    global _servers_that_stop
    with _lock:
        _servers_that_stop += change
        says = AppStatus._ends_all or (_servers_that_stop > 0 and AppStatus.enable_automatic_graceful_drain)
        type.__setattr__(AppStatus, "should_exit", says)
