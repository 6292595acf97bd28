"""Registers a stream with the server that carries it, for the duration of its response."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive, Scope

from sse_hub import _servers
from sse_hub._stopping.registry import Registration
from sse_hub._stopping.server_stop import ServerStop
from sse_hub._stopping.stoppable import Stoppable

__all__ = ["Serving", "on_asyncio"]


def on_asyncio() -> bool:
    """Whether an asyncio event loop runs here; trio is the other possibility."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Serving:
    """A context manager around the sending of a body, on the loop that serves it::

        with Serving(scope, receive, stream):
            ...send the body...

    When the stream's server begins to stop, ``stream.stop()`` is called on this loop: at once or, for a
    stream that begins while its server is already stopping, in the loop's next turn. A connection that is
    still open ``stream.grace`` seconds later (its client stopped reading) is aborted if the server allows
    that; otherwise ``stream.abort()`` is called. See ``docs/stopping.md``.

    ``scope`` and ``receive`` are those the response was called with; middleware may have wrapped either.
    ``switched`` streams also end with ``AppStatus``. It costs about a microsecond and 250 bytes, starts no
    thread and no task, and outlives neither its server nor its loop.
    """

    __slots__ = ("_registration",)

    _registration: Registration | None

    def __init__(self, scope: Scope, receive: Receive, stream: Stoppable, *, switched: bool = False) -> None:
        self._registration = None
        if on_asyncio():  # no server that is known here runs under trio
            loop = asyncio.get_running_loop()
            self._registration = Registration(stream, loop, scope=scope, receive=receive, switched=switched)

    def __enter__(self) -> None:
        if self._registration is not None:
            _servers.watch(self._registration.loop, self._registration.scope, ServerStop)
            _servers.tell_of_loss(self._registration.scope, self._registration.receive)
            self._registration.register()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._registration is not None:
            self._registration.unregister()
            _servers.note_unflushed(self._registration.receive, self._registration.stoppable.grace)
