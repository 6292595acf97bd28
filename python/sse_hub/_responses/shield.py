"""Protects what ends a stream from anyio's cancel scopes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import anyio

from sse_hub._stopping.serving import on_asyncio

__all__ = ["shielded"]


def shielded() -> AbstractContextManager[object]:
    """A context in which a cancelled scope around the request does not interrupt each await.

    Until something has used anyio, no scope is open. The first use imports half of anyio, which fails in a
    process without a free descriptor.
    """
    if "anyio._backends._asyncio" in sys.modules or not on_asyncio():
        return anyio.CancelScope(shield=True)
    return nullcontext()
