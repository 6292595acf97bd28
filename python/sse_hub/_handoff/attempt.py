"""The attempt of one response to take its connection from the server, and its possible outcomes.

The response announces the chunk that its body begins with, and sends it like any other body::

    attempt.begin(preamble)
    try:
        await send({"type": "http.response.start", ...})
        await send({"type": "http.response.body", "body": preamble, "more_body": True})
        descriptor = await attempt.decision()
    finally:
        attempt.end()

During the attempt the connection's transport is a :class:`Recorder`. If the first bytes on the wire are the
head of a plain chunked response and exactly that chunk, nothing in between changes the body, even if another
task relays it. This check needs no knowledge of any middleware. The socket is then taken, inside the very
write that completed the chunk, and what is sent afterwards goes nowhere. Any other bytes put the transport
back and write what was held, so the response streams through the server.

States, each change made in one step on the server's loop::

                 the announced bytes           decision
        PENDING --------------------> TAKEN -------------> the caller owns the descriptor
           |                            '-- end before --> the descriptor is closed
           '-- other bytes, a reason to stay, timeout, end --> KEPT

This module knows no server: a :class:`Connection` is the other side.
"""

from __future__ import annotations

import asyncio
import weakref
from abc import abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from sse_hub._handoff.recorder import Recorder, chunk_of, is_bare_stream
from sse_hub._servers.stay import Stay
from sse_hub._stopping.registry import RunningServer

__all__ = ["Attempt", "Connection", "State"]

T = TypeVar("T")

_PATIENCE = 0.25  # seconds middleware may hold the beginning back


class State(Enum):
    """The state of an attempt. Only ``PENDING`` can change."""

    PENDING = "pending"
    TAKEN = "taken"
    KEPT = "kept"


class Connection(Protocol[T]):
    """A connection that a response runs on, as its server's module knows it."""

    @property
    @abstractmethod
    def server(self) -> RunningServer:
        """The server, with its groups of handed-off streams."""

    @property
    @abstractmethod
    def transport(self) -> Any:
        """What the server writes the response to."""

    @transport.setter
    def transport(self, transport: Any) -> None: ...

    @abstractmethod
    def reason_to_stay(self) -> Stay | None:
        """Why the connection cannot be handed off now."""

    @abstractmethod
    def take(self, first: bytes) -> T | tuple[Stay, bytes]:
        """Write ``first`` and have the server forget the connection.

        Returns what belongs to the caller: a duplicate of the descriptor (non-blocking, close-on-exec), or
        the transport. Or why the connection stays, and the part of ``first`` that is still unwritten.
        """

    @abstractmethod
    def discard(self, taken: T) -> None:
        """Close what :meth:`take` returned, because nobody collected it."""


class Attempt(Generic[T]):
    """Used on the server's loop only."""

    __slots__ = (
        "_chunk",
        "_connection",
        "_discard",
        "_gzip",
        "_late",
        "_recorder",
        "_server",
        "_taken",
        "_timer",
        "_waiter",
        "state",
        "stay",
    )

    def __init__(self, connection: Connection[T]) -> None:
        self.state = State.PENDING
        self.stay: Stay | None = None
        """Why the connection stays, once the state is ``KEPT``."""
        self._server = weakref.ref(connection.server)
        self._connection: Connection[T] | None = connection
        self._discard = connection.discard
        self._chunk = b""
        self._gzip = False
        self._late: Callable[[], None] | None = None
        self._recorder: Recorder | None = None
        self._taken: T | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None

    @property
    def server(self) -> RunningServer:
        """The connection's server.

        Raises:
            RuntimeError: that server no longer exists.
        """
        server = self._server()
        if server is None:
            raise RuntimeError("the server has ended")
        return server

    def begin(
        self,
        preamble: bytes,
        timeout: float = _PATIENCE,
        *,
        gzip: bool = False,
        late: Callable[[], None] | None = None,
    ) -> None:
        """Record what is written from now on, for at most ``timeout`` seconds.

        ``preamble`` is the first body message that will be sent. It should contain something that no other
        response has, so that it cannot arrive by accident. ``gzip`` says that the response compresses its
        body, and that its head says so. ``late`` is called if the connection stays because ``timeout`` is
        over, on the loop: the beginning may be held back for much longer.

        Raises:
            ValueError: ``preamble`` is empty, or the attempt has already begun.
        """
        connection = self._connection
        if not preamble or self._chunk or connection is None:
            raise ValueError("begin once, with a preamble of at least one byte")
        self._chunk = chunk_of(preamble)
        self._gzip = gzip
        self._late = late
        self._recorder = Recorder(connection.transport, self._seen)
        connection.transport = self._recorder
        # Nearly all are decided in this turn of the loop, and need no timer.
        self._timer = asyncio.get_running_loop().call_soon(self._set_timer, timeout)

    def _set_timer(self, timeout: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(timeout, self._time_out)

    def _time_out(self) -> None:
        late = self._late
        self._keep(Stay.LATE)
        if late is not None:
            late()

    async def decision(self) -> T | None:
        """Wait until the socket is taken, or until it is clear that it stays with the server.

        Returns:
            What was taken. It belongs to the caller from here on, with everything sent before already
            written; or None: the body goes on through ``send``. A second call returns None. A forked child
            closes a descriptor: before closing it yourself, or to keep it there, call ``_core._release``.
        """
        if self.state is State.PENDING and self._connection is not None:
            # Nothing is written to a client that left, so the announced bytes never come.
            if (stay := self._connection.reason_to_stay()) is not None:
                self._keep(stay)
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        taken, self._taken = self._taken, None
        return taken

    def end(self) -> None:
        """The response is done. Idempotent.

        An undecided connection stays with the server; what nobody collected is closed.
        """
        self._keep(Stay.LATE)
        taken, self._taken = self._taken, None
        if taken is not None:
            self._discard(taken)

    def _seen(self, wire: bytes) -> None:
        fits = is_bare_stream(wire, self._chunk, gzip=self._gzip)
        if fits is None:
            return
        if not fits:
            self._keep(Stay.MIDDLEWARE)
            return
        assert self._connection is not None
        if (stay := self._connection.reason_to_stay()) is not None:
            self._keep(stay)
            return
        taken = self._connection.take(wire)
        if isinstance(taken, tuple):
            self.stay, left = taken
            self._decide(State.KEPT, left)
        else:
            self._taken = taken
            self._decide(State.TAKEN, b"")

    def _keep(self, stay: Stay) -> None:
        if self.state is State.PENDING:
            self.stay = stay
            self._decide(State.KEPT, None)

    def _decide(self, state: State, left: bytes | None) -> None:
        self.state = state
        connection, self._connection = self._connection, None
        recorder, self._recorder = self._recorder, None
        self._late = None
        if recorder is not None and connection is not None:
            # If something has since wrapped it, it stays underneath and passes everything through.
            if connection.transport is recorder:
                connection.transport = recorder.transport
            recorder.put_back(left)
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
