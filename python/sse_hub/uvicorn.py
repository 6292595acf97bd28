"""Turns the hand-off on under uvicorn: ``Protocol`` for its command line, ``HandOff`` as a middleware.

Either of::

    uvicorn app:app --http sse_hub.uvicorn:Protocol

    app.add_middleware(sse_hub.uvicorn.HandOff)   # after all other middleware, so that it is outermost

With it a stream leaves Python once its response has begun: the socket goes to a thread in Rust and the
request ends. Application code stays the same. Every stream that cannot leave (see ``docs/hand-off.md``)
goes on as it would without, and so does everything under other servers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sse_hub._handoff.uvicorn import HandOff, make_protocol

__all__ = ["HandOff", "Protocol"]

Protocol: type[asyncio.Protocol]
"""uvicorn's HTTP protocol (httptools', or h11's where httptools is missing) with the hand-off.

For ``--http`` and ``uvicorn.run(http=...)``, as ``"sse_hub.uvicorn:Protocol"`` or the class itself. Made when
it is first asked for, so that the middleware can be imported where uvicorn is not installed.
"""


def __getattr__(name: str) -> Any:
    if name != "Protocol":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    protocol = globals()["Protocol"] = make_protocol(__name__)
    return protocol
