"""uvicorn's side of the hand-off: one of its connections, and two names that earlier versions needed.

The rules by which a connection stays with uvicorn are in ``_servers/uvicorn_handoff.py``.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from sse_hub import _core
from sse_hub._handoff.owned import OwnedConnection
from sse_hub._handoff.recorder import Recorder
from sse_hub._servers import uvicorn_handoff as inside
from sse_hub._servers.stay import Stay
from sse_hub._stopping.handed import running_server
from sse_hub._stopping.registry import RunningServer

__all__ = ["CycleConnection", "DescriptorOf", "HandOff", "TransportOf", "find_protocol"]

logger = logging.getLogger("sse_hub")


class CycleConnection:
    """The connection of a uvicorn cycle, for an ``Attempt``."""

    __slots__ = ("_bare", "_cycle", "_server")

    # Whether a connection that uvicorn encrypts can be taken.
    _encrypted = False

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._bare = cycle.transport  # what a recorder passes on to
        self._server: RunningServer | None = None

    @property
    def server(self) -> RunningServer:
        # The connection knows its server only until uvicorn lets it go.
        if self._server is None:
            self._server = running_server(inside.server_state(self._cycle))
        return self._server

    @property
    def transport(self) -> Any:
        return self._cycle.transport

    @transport.setter
    def transport(self, transport: Any) -> None:
        self._cycle.transport = transport

    def reason_to_begin(self, insist: bool) -> Stay | None:
        """The reason not to try, checked before anything is sent."""
        cycle = self._cycle
        try:
            if cycle.response_started or type(cycle.transport) is Recorder:
                return Stay.STARTED
            if (stay := self.reason_to_stay()) is not None:
                return stay
            return Stay.LIMIT_CONCURRENCY if not insist and inside.limits_concurrency(cycle) else None
        except AttributeError:
            return self._unknown()

    def reason_to_stay(self) -> Stay | None:
        try:
            stay = inside.reason_to_stay(self._cycle, self._bare, encrypted=self._encrypted)
            return Stay.STOPPING if stay is None and self.server.stopping else stay
        except AttributeError:
            return self._unknown()

    @staticmethod
    def _unknown() -> Stay:
        """Another HTTP implementation, or another version, than the ones known here."""
        logger.debug("no hand-off from this version of the server", exc_info=True)
        return Stay.SERVER


class DescriptorOf(CycleConnection):
    """Gives a duplicate of the connection's descriptor, for a reactor."""

    __slots__ = ()

    def take(self, first: bytes) -> int | tuple[Stay, bytes]:
        return inside.take(self._cycle, first)

    def discard(self, taken: int) -> None:
        _core._close(taken)


class TransportOf(CycleConnection):
    """Gives the connection's transport, for a generator that stays on the event loop."""

    __slots__ = ()

    _encrypted = True

    def take(self, first: bytes) -> OwnedConnection | tuple[Stay, bytes]:
        transport = inside.transport(self._cycle)
        after_request = partial(inside.after_request, self._cycle)
        say_left = partial(inside.say_left, weakref.ref(self._cycle))
        owned = OwnedConnection(transport, first, after_request, say_left)
        inside.release(self._cycle, owned)
        return owned

    def discard(self, taken: OwnedConnection) -> None:
        taken.abort()


class HandOff:
    """Middleware that changes nothing: streams are handed off without it.

    Kept so that programs that add it continue to work.
    """

    __slots__ = ("app",)

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def find_protocol() -> type[asyncio.Protocol]:
    """The class that uvicorn itself would choose for ``--http auto``."""
    protocol: type[asyncio.Protocol]
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as protocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as protocol
    return protocol
