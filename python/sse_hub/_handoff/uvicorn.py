"""uvicorn's side of the hand-off: the middleware that offers it, and the protocol that has it built in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sse_hub._handoff.offer import EXTENSION, Offer, State
from sse_hub._servers import uvicorn_handoff as inside
from sse_hub._stopping.handed import running_server
from sse_hub._stopping.registry import RunningServer

__all__ = ["HandOff", "make_protocol"]

logger = logging.getLogger("sse_hub")


class HandOff:
    """Middleware that lets streams leave uvicorn. Add it last, so that it is outermost.

    It offers the hand-off for requests that reach it straight from uvicorn, or through what FastAPI and
    Starlette put around all middleware themselves. Where any other middleware stands between the two, and
    under other servers, it does nothing. Together with :data:`Protocol` it does nothing either: one offer is
    enough.
    """

    __slots__ = ("app",)

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions") or {}
        cycle = inside.straight_cycle(receive, "receive") if scope["type"] == "http" else None
        if cycle is None or EXTENSION in extensions:
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(cycle, send)
        # Not in a copy of the scope: uvicorn logs the client's address that its proxy middleware, inside of
        # this one, writes into the scope.
        scope["extensions"] = {**extensions, EXTENSION: exchange.offer}
        try:
            await self.app(scope, receive, exchange.send)
        finally:
            exchange.offer.end()


class _Exchange:
    """One request's way back to uvicorn: sees whether the announced bytes arrive, and lets go."""

    __slots__ = ("_begun", "_cycle", "_send", "offer")

    def __init__(self, cycle: Any, send: Send) -> None:
        self.offer = Offer(self)
        self._cycle = cycle
        self._send = send
        self._begun = False  # the head went out

    @property
    def server(self) -> RunningServer:
        return running_server(inside.server_state(self._cycle))

    def can_leave(self) -> bool:
        try:
            if inside.straight_cycle(self._send, "send") is not self._cycle:
                return False
            return inside.can_leave(self._cycle) and not self.server.stopping
        except AttributeError:  # another HTTP implementation, or another version, than the ones known here
            logger.debug("no hand-off from this version of the server", exc_info=True)
            return False

    def send(self, message: Message) -> Awaitable[None]:
        """The application's ``send``. Not a coroutine function: a stream that stays pays for no frame."""
        if self.offer.state is State.PENDING:
            return self._watch(message)
        if self.offer.state is State.TAKEN:
            return _swallow()
        return self._send(message)

    async def _watch(self, message: Message) -> None:
        begins = message["type"] == "http.response.start"
        if begins:
            fits = self._begun = _is_bare_stream(message)
        else:
            # From here on, whatever else is sent is not what was announced.
            fits, self._begun = self._begun and self._announced(message), False
        if not fits:
            self.offer.refuse()
        await self._send(message)
        if fits and not begins:
            await self._hand_over()

    def _announced(self, message: Message) -> bool:
        if message["type"] != "http.response.body" or not message.get("more_body", False):
            return False
        preamble = self.offer.preamble
        return preamble is not None and preamble == message.get("body", b"")

    async def _hand_over(self) -> None:
        """Take the socket as soon as nothing waits in front of it, or refuse."""
        flushed = await inside.is_flushed(self._cycle)
        if self.offer.state is not State.PENDING:
            return
        descriptor = inside.duplicate(self._cycle) if flushed and self.can_leave() else None
        if descriptor is None:
            self.offer.refuse()
            return
        self.offer.take(descriptor)
        inside.let_go(self._cycle)


async def _swallow() -> None:
    """What becomes of a message for a connection that is no longer the server's."""


def _is_bare_stream(start: Message) -> bool:
    """Whether a response's head announces a chunked body with no coding of its content."""
    if start["status"] != 200:
        return False
    for name, value in start.get("headers", ()):
        match name.lower():
            case b"content-length" | b"content-encoding":
                return False
            case b"transfer-encoding" if value.lower() != b"chunked":
                return False
    return True


def make_protocol(module: str) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with :class:`HandOff` around the application."""
    base: Any
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as base
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as base

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        self.app = HandOff(self.app)

    body = {"__init__": __init__, "__module__": module, "__doc__": "uvicorn's protocol with the hand-off."}
    made: type[asyncio.Protocol] = type("Protocol", (base,), body)
    return made
