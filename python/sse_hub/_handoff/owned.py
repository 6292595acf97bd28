"""A connection that its server let go while its transport stays with the event loop.

A generator is driven on its loop, so its connection needs no thread and no second descriptor: the transport
gets another protocol. What the server kept for the connection and the request is freed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.types import Message

__all__ = ["OwnedConnection"]


class OwnedConnection(asyncio.Protocol):
    """The protocol of such a transport, and the flow control of what is written to it.

    ``after_request`` calls a function once the request has ended. ``say_left`` is called when the connection
    is gone, before ``on_lost``. Used on the transport's loop only.
    """

    __slots__ = (
        "_after_request",
        "_say_left",
        "_writable",
        "is_lost",
        "on_lost",
        "transport",
        "write_paused",
    )

    def __init__(
        self,
        transport: Any,
        after_request: Callable[[Callable[[], None]], None],
        say_left: Callable[[], None],
    ) -> None:
        self.transport = transport
        self._after_request: Callable[[Callable[[], None]], None] | None = after_request
        self._say_left = say_left
        self.write_paused = False
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None
        self._writable: asyncio.Event | None = None  # while somebody waits for it

    async def send(self, message: Message) -> None:
        """Write a message of a response's body, as a server's ``send`` does; its head was written before."""
        if self.write_paused:
            await self.drain()
        if self.is_lost or self.transport.is_closing():
            return
        body = message.get("body", b"")
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        if message.get("more_body"):
            self.transport.write(chunk)
        else:
            self._end(chunk + b"0\r\n\r\n")
        if self.write_paused:
            await self.drain()

    def _end(self, last: bytes) -> None:
        """Write the end of the body, and a FIN with it.

        A client that had the end alone would take the connection for one that is kept, and send its next
        request there. TLS has no half-closed connections: there the end goes out alone.
        """
        if not self.transport.can_write_eof():
            self.transport.write(last)
            return
        connection = self.transport.get_extra_info("socket")
        if hasattr(socket, "TCP_CORK") and connection.family != socket.AF_UNIX:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self.transport.write(last)
        self.transport.write_eof()

    async def drain(self) -> None:
        """Wait until the client has taken enough for more to be written."""
        while self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def close(self) -> None:
        """Close the connection once what was written is out."""
        self.transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        self.transport.abort()

    def begin(self, then: Callable[[], None]) -> None:
        """Call ``then`` once the request has ended; call this once."""
        after_request, self._after_request = self._after_request, None
        if after_request is not None:
            after_request(then)

    # What the transport calls.

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.resume_writing()
        self._say_left()
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()
