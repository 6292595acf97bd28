"""A client that accepts gzip, and decodes its stream piece by piece."""

from __future__ import annotations

import zlib
from typing import Any

from wire import Stream

GZIP = "Accept-Encoding: gzip\r\n"


class Zipped(Stream):
    """``bytes`` of the body came; each chunk is decoded when it arrives."""

    def __init__(self, port: int, path: str = "/", **options: Any) -> None:
        if "Accept-Encoding" not in options.get("headers", ""):
            options["headers"] = GZIP + options.get("headers", "")
        super().__init__(port, path, **options)
        self.decoder = zlib.decompressobj(wbits=31)
        self.bytes = 0
        feed = self.parser.feed

        def decode(data: bytes) -> None:
            self.bytes += len(data)
            feed(self.decoder.decompress(data))

        setattr(self.parser, "feed", decode)  # noqa: B010
