"""Stands in for a connection's transport while a response begins, and reads the bytes of the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Recorder", "chunk_of", "is_bare_stream"]

_STATUS = b"HTTP/1.1 200 "
_LONGEST = 65536  # bytes of a head that goes out in one write


class Recorder:
    """Holds back what is written to a transport until it is put back, and then passes everything on.

    ``seen`` is called after each write with everything that was written. All other attributes are those of
    the transport; what was held back is written before the transport is closed.
    """

    __slots__ = ("_held", "_seen", "transport")

    def __init__(self, transport: Any, seen: Callable[[bytes], None]) -> None:
        self.transport = transport
        self._seen: Callable[[bytes], None] | None = seen
        self._held = b""

    def put_back(self, left: bytes | None = None) -> None:
        """Stop holding back: write what was held, or ``left`` of it. Idempotent."""
        self._seen = None
        held, self._held = self._held, b""
        if left is None:
            left = held
        # The client may have left by now, and uvloop's transports raise when they are closed.
        if left and not self.transport.is_closing():
            self.transport.write(left)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._seen is None:
            self.transport.write(data)
        elif data:
            self._held += data
            self._seen(self._held)

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(data))

    def write_eof(self) -> None:
        self.put_back()
        self.transport.write_eof()

    def close(self) -> None:
        self.put_back()
        self.transport.close()

    def abort(self) -> None:
        self.put_back(b"")
        self.transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def chunk_of(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def is_bare_stream(wire: bytes, chunk: bytes, *, gzip: bool = False) -> bool | None:
    """Whether these bytes are the head of a plain chunked response, and then exactly ``chunk``.

    With ``gzip`` it is a response that has compressed its body itself, and nothing has after it.

    None while there are too few of them to tell: more may follow.
    """
    head, end, body = wire.partition(b"\r\n\r\n")
    if not end:
        return None if len(wire) < _LONGEST and wire.startswith(_STATUS[: len(wire)]) else False
    if not head.startswith(_STATUS):
        return False
    lines = head.lower() + b"\r\n"
    if b"\r\ncontent-length:" in lines or lines.count(b"\r\ncontent-encoding:") != gzip:
        return False
    if gzip and b"\r\ncontent-encoding: gzip\r\n" not in lines:
        return False
    if lines.count(b"\r\ntransfer-encoding:") != 1 or b"\r\ntransfer-encoding: chunked\r\n" not in lines:
        return False
    if body == chunk:
        return True
    return None if chunk.startswith(body) else False
