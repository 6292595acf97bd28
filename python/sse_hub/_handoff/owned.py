"""A connection that its server let go while its transport stays with the event loop.

A generator is driven on its loop, so its connection needs no thread and no second descriptor: the transport
gets another protocol. What the server kept for the connection and the request is freed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.types import Message

__all__ = ["OwnedConnection"]


class OwnedConnection(asyncio.Protocol):
    """The protocol of such a transport, and the flow control of what is written to it.

    ``head`` is the response's, and is unwritten: it goes out with the first event if the content begins at
    once, and otherwise by itself. ``after_request`` calls a function once the request has ended. ``say_left``
    is called when the connection is gone, before ``on_lost``. Used on the transport's loop only.
    """

    __slots__ = (
        "_after_request",
        "_has_begun",
        "_head",
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
        head: bytes,
        after_request: Callable[[Callable[[], None]], None],
        say_left: Callable[[], None],
    ) -> None:
        self.transport = transport
        self._head = head
        self._has_begun = False
        self._after_request: Callable[[Callable[[], None]], None] | None = after_request
        self._say_left = say_left
        self.write_paused = False
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None
        self._writable: asyncio.Event | None = None  # while somebody waits for it
        # A request that ends at once has its content begin in the turn after the next.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._write_late_head)

    def _write_late_head(self) -> None:
        if not self._has_begun:
            self.write_head()

    def write_head(self) -> None:
        """Write the head now, if it was not written."""
        head = self.take_head()
        # The client may have left by now, and uvloop's transports raise when they are closed.
        if head and not self.transport.is_closing():
            self.transport.write(head)

    def take_head(self) -> bytes:
        """The head if it was not written: the caller writes it."""
        head, self._head = self._head, b""
        return head

    async def send(self, message: Message) -> None:
        """Write a message of a response's body, as a server's ``send`` does; its head was written before."""
        self.write_head()
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
        self.write_head()
        self.transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        self.transport.abort()

    def begin(self, then: Callable[[], None]) -> None:
        """Call ``then``, which begins the content, once the request has ended; call this once."""
        after_request, self._after_request = self._after_request, None
        if after_request is not None:
            after_request(partial(self._begin, then))

    def _begin(self, then: Callable[[], None]) -> None:
        self._has_begun = True
        then()

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
