"""The buffers of granian's connections, which live in its Rust part: each is found by its two addresses.

For all streams that begin within a moment, the process's descriptors are looked through once, in a thread.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress

from starlette.types import Scope

from sse_hub import _core
from sse_hub._servers.buffers import Buffers
from sse_hub._servers.granian import Address, addresses_of, find_descriptors

__all__ = ["GranianBuffers"]

_SOON = 0.25  # seconds for which streams are gathered that look for their descriptors

# By loop: those that do.
_searching: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[GranianBuffers]] = (
    weakref.WeakKeyDictionary()
)


class GranianBuffers(Buffers):
    """Those of the connection of one request."""

    __slots__ = ("_addresses", "_found", "_is_over")

    def __init__(self, scope: Scope) -> None:
        super().__init__(is_hidden=True)
        self._addresses = addresses_of(scope)
        self._found: int | None = None
        self._is_over = False

    def narrow(self) -> None:
        loop = asyncio.get_running_loop()
        searching = _searching.setdefault(loop, [])
        searching.append(self)
        if len(searching) == 1:
            loop.call_later(_SOON, lambda: loop.run_in_executor(None, _search, loop))

    def widen(self) -> None:
        self._is_over = True
        if self._found is not None and self._addresses in find_descriptors({self._addresses}, [self._found]):
            _core._limit_unsent(self._found, False)
        self._found = self._poll = None

    def _is_closing(self) -> bool:
        return self._is_over

    def _take(self, found: dict[Address, int]) -> None:
        descriptor = found.get(self._addresses)
        if descriptor is not None and not self._is_over:
            self._found = descriptor
            self._limit(descriptor)


def _search(loop: asyncio.AbstractEventLoop) -> None:
    searching = _searching.pop(loop, [])
    found = find_descriptors({buffers._addresses for buffers in searching})

    def take() -> None:
        for buffers in searching:
            buffers._take(found)

    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(take)
