"""The buffers between a stream and its client: the transport's and the kernel's.

What waits there is neither dropped nor replaced by something newer. A server's transport takes 64 KiB and
the kernel megabytes, so a client that reads 2 KB/s of live values would read some that are more than a minute
old.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sse_hub import _core

__all__ = ["Buffers"]

# Bytes in the transport from which on a write waits: it then has one write at most. Not 0, with which the
# transport of a TLS connection counts as full although it is empty.
_MOST = 1


class Buffers:
    """Those of one connection, of usual size until they are narrowed."""

    __slots__ = ("_limits", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._limits: tuple[int, int] | None = None

    def narrow(self) -> None:
        """Hold few bytes from now on. Does nothing if the transport is of another kind, or closed."""
        with suppress(Exception):
            limits = self._transport.get_write_buffer_limits()
            self._transport.set_write_buffer_limits(high=_MOST)
            self._limits = limits
            _core._limit_unsent(self._transport.get_extra_info("socket").fileno(), True)

    def widen(self) -> None:
        """The stream is over, and the connection may serve another request, if it is open."""
        if self._limits is None:
            return
        low, high = self._limits
        self._limits = None
        with suppress(Exception):
            if self._transport.is_closing():
                return
            self._transport.set_write_buffer_limits(high=high, low=low)
            _core._limit_unsent(self._transport.get_extra_info("socket").fileno(), False)
