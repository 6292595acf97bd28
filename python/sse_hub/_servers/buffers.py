"""The buffers between a stream and its client: the transport's and the kernel's.

What waits there is neither dropped nor replaced by something newer. A server's transport takes 64 KiB and
the kernel megabytes, so a client that reads 2 KB/s of live values would read some that are more than a minute
old.

Below the transport of a TLS connection is another one, which takes 64 KiB as well, and which uvloop does not
give away; granian has no transport. Such a connection is *hidden*: its kernel is asked whether it has passed
on nearly all that it was given, before the next write.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress
from typing import Any

from starlette.types import Message, Send

from sse_hub import _core
from sse_hub._servers.uvicorn_writing import ChunkedConnection, socket_of

__all__ = ["Buffers", "TransportBuffers"]

# Bytes in the transport from which on a write waits: it then has one write at most. Not 0, with which the
# transport of a TLS connection counts as full although it is empty.
_MOST = 1
# Seconds between two questions to the kernel, at first and at most.
_SOON = 0.002
_LATE = 0.1


class Buffers:
    """Those of one connection, of usual size until they are narrowed. Use them on the connection's loop."""

    __slots__ = ("_poll", "is_hidden")

    def __init__(self, *, is_hidden: bool) -> None:
        self.is_hidden = is_hidden
        """Whether what waits in this process is not bounded by the transport's limits."""
        self._poll: select.poll | None = None

    def narrow(self) -> None:
        """Hold few bytes from now on, if the connection can be reached."""
        raise NotImplementedError

    def widen(self) -> None:
        """The stream is over, and the connection may serve another request, if it is open."""
        raise NotImplementedError

    def _is_closing(self) -> bool:
        raise NotImplementedError

    def _limit(self, descriptor: int) -> None:
        _core._limit_unsent(descriptor, True)
        if self.is_hidden and hasattr(select, "poll"):  # Windows has none
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLOUT)

    def is_full(self) -> bool:
        """Whether the kernel holds enough of a hidden connection."""
        if self._poll is None or self._is_closing():
            return False
        try:
            return not self._poll.poll(0)
        except OSError:
            return False

    async def drained(self) -> None:
        """Wait until the connection is not full."""
        while self.is_full():
            pause = _SOON
            while self.is_full():
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LATE)
            # What the transport held back fills the kernel first.
            await asyncio.sleep(_SOON)

    def bound(self, connection: ChunkedConnection) -> ChunkedConnection:
        """A hidden connection that takes nothing while it is full."""
        transport, flow, socket, head = connection
        return transport, _Flow(self, flow), socket, head

    def sender(self, send: Send) -> Send:
        """A ``send`` of a hidden connection that returns when this is not full."""

        async def send_and_drain(message: Message) -> None:
            await send(message)
            await self.drained()

        return send_and_drain


class TransportBuffers(Buffers):
    """Those of a connection whose transport is reached."""

    __slots__ = ("_limits", "_transport")

    def __init__(self, transport: Any) -> None:
        super().__init__(is_hidden=socket_of(transport) is None)
        self._transport = transport
        self._limits: tuple[int, int] | None = None

    def narrow(self) -> None:
        with suppress(Exception):  # a transport of another kind, or a closed one
            limits = self._transport.get_write_buffer_limits()
            self._transport.set_write_buffer_limits(high=_MOST)
            self._limits = limits
            self._limit(self._transport.get_extra_info("socket").fileno())

    def widen(self) -> None:
        self._poll = None
        if self._limits is None:
            return
        low, high = self._limits
        self._limits = None
        with suppress(Exception):
            if self._transport.is_closing():
                return
            self._transport.set_write_buffer_limits(high=high, low=low)
            _core._limit_unsent(self._transport.get_extra_info("socket").fileno(), False)

    def _is_closing(self) -> bool:
        return bool(self._transport.is_closing())


class _Flow:
    """uvicorn's flow control of a hidden connection, and the kernel's."""

    __slots__ = ("_buffers", "_flow")

    def __init__(self, buffers: Buffers, flow: Any) -> None:
        self._buffers, self._flow = buffers, flow

    @property
    def write_paused(self) -> bool:
        return self._flow.write_paused or self._buffers.is_full()

    async def drain(self) -> None:
        await self._flow.drain()
        await self._buffers.drained()
