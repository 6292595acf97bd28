"""The offer of a server to let a connection go, and what can become of it.

A server that can part with a connection puts an :class:`Offer` into the request's scope, as
``scope["extensions"]["sse_hub.handoff"]``. A response that wants the connection says which bytes its body
begins with, sends them as any other body, and asks for the decision::

    if offer is not None and offer.is_open():
        offer.announce(preamble)
        await send({"type": "http.response.start", ...})
        await send({"type": "http.response.body", "body": preamble, "more_body": True})
        descriptor = await offer.decision()
        if descriptor is not None:
            ...  # written to from elsewhere; here the body ends, for the middleware in between
            await send({"type": "http.response.body", "body": b"", "more_body": False})

Bytes that arrive at the server exactly as they were announced prove that nothing in between changes the
body, also when another task relays them. That needs no knowledge of any middleware. What is sent after the
hand-off goes nowhere.

States, each change made in one step on the server's loop::

                   take                decision
         Pending ---------> Taken -----------------> the caller owns the descriptor
            |                  '-- caller cancelled, response over --> the descriptor is closed
            |-- refuse ---> Refused
            '-- timeout, caller cancelled --> Withdrawn

This module knows no server; ``uvicorn.py`` has the other side of it for uvicorn.
"""

from __future__ import annotations

import asyncio
import weakref
from enum import Enum
from typing import Protocol

from sse_hub import _core
from sse_hub._stopping.registry import RunningServer

__all__ = ["EXTENSION", "Connection", "Offer", "State"]

EXTENSION = "sse_hub.handoff"
"""The key of the offer among the scope's extensions."""


class State(Enum):
    """Where an offer stands. Only ``PENDING`` can change."""

    PENDING = "pending"
    TAKEN = "taken"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


class Connection(Protocol):
    """The connection an offer is about, as its server knows it."""

    @property
    def server(self) -> RunningServer:
        """The server, see :attr:`Offer.server`."""

    def can_leave(self) -> bool:
        """Whether the connection could be handed off as things are."""


class Offer:
    """A server's offer to hand a connection over. Not thread-safe: used on the server's loop only."""

    __slots__ = ("_connection", "_descriptor", "_preamble", "_server", "_waiter", "state")

    def __init__(self, connection: Connection) -> None:
        self.state = State.PENDING
        self._connection: Connection | None = connection
        self._preamble: bytes | None = None
        self._descriptor: int | None = None
        self._server: weakref.ref[RunningServer] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the response uses.

    @property
    def server(self) -> RunningServer:
        """The server that makes the offer; once the connection was taken, for as long as that server exists.

        Raises:
            RuntimeError: the response is over, and the connection was not taken.
        """
        if self._server is not None and (server := self._server()) is not None:
            return server
        if self._connection is None:
            raise RuntimeError("the offer is over: its response has ended")
        return self._connection.server

    def is_open(self) -> bool:
        """Whether it is worthwhile to announce a preamble: a first look, the server looks again."""
        return self.state is State.PENDING and self._connection is not None and self._connection.can_leave()

    def announce(self, preamble: bytes) -> None:
        """Say which bytes the first body message will consist of, before sending them.

        They should hold something that no other response has, so that they cannot arrive by accident. An
        offer that was decided already stays as it is.

        Raises:
            ValueError: ``preamble`` is empty, or another one was announced.
        """
        if not preamble or self._preamble is not None:
            raise ValueError("announce one preamble, of at least one byte")
        self._preamble = bytes(preamble)

    async def decision(self, timeout: float = 1.0) -> int | None:
        """Wait for the descriptor of the connection, at most ``timeout`` seconds.

        Returns:
            A duplicate of the socket's descriptor (non-blocking, close-on-exec) that belongs to the caller
            from here on, with everything sent before already given to the kernel; or None: the connection
            stays with the server, and the body goes on through ``send``. A second call returns None. A forked
            child closes it: before closing it yourself, or to keep it there, call ``_core._release``.

        Cancelling it closes a descriptor that was taken and withdraws the offer otherwise.
        """
        if self._preamble is None:
            self._decide(State.WITHDRAWN)
        if self.state is State.PENDING:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout, self._decide, State.WITHDRAWN)
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.end()
                raise
            finally:
                timer.cancel()
                self._waiter = None
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    # What the server uses.

    @property
    def preamble(self) -> bytes | None:
        """What was announced, if anything."""
        return self._preamble

    def take(self, descriptor: int) -> None:
        """Give ``descriptor`` to the response; only while the state is ``PENDING``."""
        assert self.state is State.PENDING
        assert self._connection is not None
        # The connection knows its server until it is let go, which may be long before the response looks.
        self._server = weakref.ref(self._connection.server)
        _core._own(descriptor)
        self._descriptor = descriptor
        self._decide(State.TAKEN)

    def refuse(self) -> None:
        """Keep the connection; nothing if the offer was decided before."""
        self._decide(State.REFUSED)

    def end(self) -> None:
        """The response is over: nobody asks for the decision any more. Idempotent."""
        self._decide(State.WITHDRAWN)
        self._connection = None
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            _core._close(descriptor)

    def _decide(self, state: State) -> None:
        if self.state is State.PENDING:
            self.state = state
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
