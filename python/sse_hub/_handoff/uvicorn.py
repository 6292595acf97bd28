"""uvicorn's side of the hand-off: the offer, and letting a connection go."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sse_hub import _core
from sse_hub._handoff.offer import EXTENSION, Offer, State
from sse_hub._servers.uvicorn import is_cycle
from sse_hub._stopping.handed import is_stopping, server_number

__all__ = ["HandOff", "make_protocol"]

logger = logging.getLogger("sse_hub")

_FLUSH = 1.0  # seconds the kernel may take to accept head and preamble, else the client is too slow


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
        cycle = _cycle(receive, "receive") if scope["type"] == "http" else None
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
    def server(self) -> int:
        return server_number(self._cycle.transport.get_protocol().server_state)

    def can_leave(self) -> bool:
        try:
            return _cycle(self._send, "send") is self._cycle and _can_leave(self._cycle)
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
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FLUSH
        transport = self._cycle.transport
        delay = 0.0
        while transport.get_write_buffer_size():
            if transport.is_closing() or loop.time() > deadline:
                break
            # uvloop writes at the end of the loop's turn; what does not fit then, waits for the client.
            await asyncio.sleep(delay)
            delay = min(0.05, 2 * delay or 0.001)
        if self.offer.state is not State.PENDING:
            return
        descriptor = None
        if not transport.get_write_buffer_size() and self.can_leave():
            descriptor = _duplicate(transport.get_extra_info("socket").fileno())
        if descriptor is None:
            self.offer.refuse()
            return
        self.offer.take(descriptor)
        # uvicorn's own state for a client that left: later sends are swallowed, nothing is logged, and the
        # connection is no longer counted. Its descriptor is closed; no FIN is sent while there is another.
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        transport.abort()


async def _swallow() -> None:
    """What becomes of a message for a connection that is no longer the server's."""


# What stands around the middleware added last: errors, the limit of the request's body, telemetry. All of it
# passes on a response's messages as they are.
_FRAMEWORK = {
    "fastapi._body_limit",
    "fastapi.telemetry._asgi",
    "starlette.middleware.body_limit",
    "starlette.middleware.errors",
}


def _cycle(function: Any, name: str) -> Any | None:
    """The uvicorn cycle whose ``send`` or ``receive`` this is, at most wrapped by the framework itself."""
    for _ in range(8):
        owner = getattr(function, "__self__", None)
        if is_cycle(owner):
            return owner
        if getattr(function, "__module__", None) not in _FRAMEWORK:
            return None
        if owner is not None:
            function = getattr(owner, name, None)
        else:
            names = function.__code__.co_freevars
            function = function.__closure__[names.index(name)].cell_contents if name in names else None
    return None


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


def _can_leave(cycle: Any) -> bool:
    """Whether a cycle's connection carries one complete HTTP/1.1 request, this one, and nothing else."""
    transport, scope = cycle.transport, cycle.scope
    if sys.platform == "win32" or transport.is_closing():
        return False
    if scope["http_version"] != "1.1" or scope["method"] in ("HEAD", "CONNECT"):
        return False
    if cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
        return False
    if cycle.more_body or cycle.body:
        return False
    if transport.get_extra_info("sslcontext") is not None or transport.get_extra_info("socket") is None:
        return False
    protocol = transport.get_protocol()
    if protocol.cycle is not cycle or is_stopping(protocol.server_state):
        return False
    if hasattr(protocol, "pipeline"):  # httptools: a scope is made for each request as it begins
        return not protocol.pipeline and protocol.scope is scope
    received, _ = protocol.conn.trailing_data  # h11: what follows waits in its buffer
    return not received


_logged_no_descriptor = False


def _duplicate(descriptor: int) -> int | None:
    """A duplicate of ``descriptor``; None if there is none to be had (EMFILE)."""
    global _logged_no_descriptor
    try:
        return _core._duplicate(descriptor)
    except OSError as error:
        if not _logged_no_descriptor:
            _logged_no_descriptor = True
            logger.debug("a stream stays with its server, as will others: %s", error)
        return None


def make_protocol(module: str) -> type[asyncio.Protocol]:
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
