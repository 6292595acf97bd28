"""Daemon threads for code of the application that may block.

The event loop's own executor and anyio's worker threads are joined when the interpreter ends, so one that
blocks for ever keeps the process alive. These threads are not joined.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio.to_thread

__all__ = ["run", "start"]

T = TypeVar("T")

_IDLE = 10.0  # seconds after which a thread without work ends


class _Worker:
    """One thread, which works until it has been idle for a while."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self.work: SimpleQueue[Callable[[], object]] = SimpleQueue()
        threading.Thread(target=self._run, name="sse-hub content", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                work = self.work.get(timeout=_IDLE)
            except Empty:
                if self._pool.retire(self):
                    return
                continue  # it was given work just now
            work()
            del work  # it may hold a client's response
            self._pool.rest(self)


class _Pool:
    """As many threads as there are concurrent steps: content that blocks holds up no other content."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def start(self, work: Callable[[], object]) -> None:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self)
        worker.work.put(work)

    def rest(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def retire(self, worker: _Worker) -> bool:
        """Remove an idle worker; False if it is no longer idle."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True


_pool = _Pool()


def start(work: Callable[[], object]) -> None:
    """Call ``work``, which must not raise, in a daemon thread."""
    global _pool
    if _pool.process != os.getpid():  # a forked child has none of its parent's threads
        _pool = _Pool()
    _pool.start(work)


async def run(function: Callable[[], T]) -> T:
    """The result of ``function``, called in a daemon thread with the caller's context.

    Cancelling it does not stop the thread: ``function`` goes on, and its outcome is dropped. It must not
    raise StopIteration. Under trio the thread is one of trio's own, which are daemons, too.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
    future: asyncio.Future[Any] = loop.create_future()
    start(partial(_work, function, copy_context(), loop, future))
    try:
        return await future  # type: ignore[no-any-return]
    finally:
        del future  # an exception's traceback refers to this frame, and the future to the exception


def _work(
    function: Callable[[], object],
    context: Context,
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
) -> None:
    result, error = None, None
    try:
        result = context.run(function)
    except BaseException as raised:
        # Without this frame, which refers to the future.
        error = raised.with_traceback(raised.__traceback__ and raised.__traceback__.tb_next)
    with suppress(RuntimeError):  # the loop was closed, and its task with it
        loop.call_soon_threadsafe(_finish, future, result, error)


def _finish(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
