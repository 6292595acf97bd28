"""``Protocol`` and ``HandOff``: names that once turned the hand-off on, and now change nothing.

Streams are handed off automatically, see ``docs/hand-off.md``. A command line that has
``--http sse_hub.uvicorn:Protocol`` and an app that has ``app.add_middleware(HandOff)`` continue to work.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sse_hub._handoff.uvicorn import HandOff, find_protocol

__all__ = ["HandOff", "Protocol"]

Protocol: type[asyncio.Protocol]
"""The HTTP protocol of uvicorn that ``--http auto`` chooses: httptools', or h11's without it.

Looked up on first access, so that the module can be imported where uvicorn is not installed.
"""


def __getattr__(name: str) -> Any:
    if name != "Protocol":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    protocol = globals()["Protocol"] = find_protocol()
    return protocol
