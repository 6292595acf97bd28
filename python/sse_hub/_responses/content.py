"""What a response iterates: async iterables as they are, others step by step in worker threads."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum
from functools import partial
from types import AsyncGeneratorType
from typing import Any

import anyio

from sse_hub._responses import threads
from sse_hub._responses.shield import shielded
from sse_hub._stopping.serving import on_asyncio

__all__ = ["FOR_EVER", "SyncContent", "close_content", "is_closed"]

logger = logging.getLogger("sse_hub.sse")

FOR_EVER = 10.0**8
"""Three years, for streams that do not end with their server: uvloop's timers do not accept infinity."""

_PATIENCE = 1.0  # seconds that closing waits for a `next` that still runs, and may block for ever
_POLL = 0.01


class _State(Enum):
    IDLE = "idle"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"


_END = object()


class SyncContent:
    """An iterable as an async iterator that runs every step in a worker thread::

        idle --next--> running --an item--> idle
          |               |--its end, an exception----------------> closed
          |               '--aclose: when next returns------------> closing --> closed
          '--close--> closing, in a worker thread ----------------> closed

    So a generator's ``finally`` never runs on the event loop, and it runs when the client leaves rather than
    at some garbage collection. A step that blocks for ever keeps its thread, but not the process, alive.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._lock = threading.Lock()
        self._iterable = iterable
        self._iterator: Iterator[Any] | None = None
        self._state = _State.IDLE
        self._close_soon = False
        self._context: Context | None = None  # of who iterates, in a copy of which each step runs

    def __aiter__(self) -> SyncContent:
        return self

    async def __anext__(self) -> Any:
        with self._lock:
            if self._state in (_State.CLOSING, _State.CLOSED) or self._close_soon:
                raise StopAsyncIteration
            if self._state is _State.RUNNING:
                raise RuntimeError("this content is iterated by another task already")
            self._state = _State.RUNNING
        if self._context is None:
            self._context = copy_context()
        try:
            item = await threads.run(self._step)
        except BaseException:  # cancelled, most likely
            self._begin_close()
            raise
        if item is _END:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the iterator in a worker thread, and wait for that.

        This waits at most a second for a step that is under way, which may block for ever. The iterator is
        closed when that step returns.
        """
        self._begin_close()
        patience = time.monotonic() + _PATIENCE
        sleep = asyncio.sleep if on_asyncio() else anyio.sleep
        while self._state is not _State.CLOSED:
            if self._state is _State.RUNNING and time.monotonic() > patience:
                return
            await sleep(_POLL)

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be ending
            self._begin_close()

    def _begin_close(self) -> None:
        with self._lock:
            self._close_soon = True
            if self._state is not _State.IDLE:
                return
            if not hasattr(self._iterator, "close"):  # or it never began
                self._state = _State.CLOSED
                return
            self._state = _State.CLOSING
            context = self._context
        threads.start(self._close if context is None else partial(context.run, self._close))

    # In a worker thread.

    def _step(self) -> Any:
        try:
            if self._iterator is None:
                self._iterator = iter(self._iterable)
            item = next(self._iterator)
        except StopIteration:
            self._state = _State.CLOSED
            return _END
        except BaseException:
            self._state = _State.CLOSED
            raise
        with self._lock:
            if not self._close_soon:
                self._state = _State.IDLE
                return item
            self._state = _State.CLOSING
        self._close()
        return _END

    def _close(self) -> None:
        try:
            close = getattr(self._iterator, "close", None)
            if close is not None:
                close()
        except Exception:
            logger.exception("Error closing content after its client left")
        finally:
            self._state = _State.CLOSED


def is_closed(content: Any) -> bool:
    """Whether there is nothing to close: content without ``aclose``, or an async generator that has ended."""
    if type(content) is AsyncGeneratorType:
        return content.ag_frame is None
    return getattr(content, "aclose", None) is None


async def close_content(content: Any, seconds: float | None) -> None:
    """Call the content's ``aclose``, if it has one, for at most ``seconds``. Never raises."""
    if is_closed(content):
        return
    if on_asyncio():
        limit = asyncio.timeout(seconds and min(seconds, FOR_EVER))
        with shielded(), suppress(TimeoutError):
            async with limit:
                await _close(content)
        is_late = limit.expired()
    else:
        with anyio.move_on_after(seconds, shield=True) as scope:
            await _close(content)
        is_late = scope.cancel_called
    if is_late:
        logger.warning("Body iterator cleanup cancelled after %s seconds", seconds)


async def _close(content: Any) -> None:
    try:
        await content.aclose()
    except Exception:
        logger.exception("Error closing body iterator after encoding or send failure")
