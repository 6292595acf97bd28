"""The parts of a gzip body (RFC 1952) that a response writes itself; the core writes the rest."""

from __future__ import annotations

import zlib

__all__ = ["gzip_header", "gzip_rest"]

_COMMENT = b"\x10"


def gzip_header(comment: bytes) -> bytes:
    """The header of a body, with a comment, which decoders skip. It contains no NUL."""
    # Deflate; no time, no level, and an unknown system.
    return b"\x1f\x8b\x08" + _COMMENT + b"\0\0\0\0\0\xff" + comment + b"\0"


def gzip_rest(data: bytes) -> bytes:
    """What follows the header in a body that consists of ``data``."""
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    blocks = compress.compress(data) + compress.flush()
    return blocks + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
