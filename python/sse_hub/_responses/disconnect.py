"""Notices that a client left, without a task of its own if the server allows that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import Any

from starlette.types import Message, Receive

from sse_hub._servers.uvicorn import is_cycle

__all__ = ["DISCONNECTS", "DisconnectWatch", "needs_no_task"]

logger = logging.getLogger("sse_hub")

DISCONNECTS = ("http.disconnect", "websocket.disconnect")
"""The messages that say that a client left. The second comes where a stream denies a WebSocket."""


class DisconnectWatch:
    """Listens on ``receive`` until ``http.disconnect`` and then calls ``on_disconnect``, on the loop.

    A response has to await ``receive()`` while it streams: servers swallow messages that are sent after the
    client left, so sending does not show it. One task per client for this alone costs more than the rest of
    an idle stream. uvicorn's own ``receive`` only waits for plain futures, so it is driven by hand: when such
    a future is done, its callback resumes the coroutine. Any other ``receive`` (wrapped by middleware, other
    servers) may need a task around it and gets a small one.

    ``on_disconnect`` is called at most once, never from within :meth:`start` and never after :meth:`close`.
    It must not raise. The rest of the request's body is read and dropped. A server also says
    ``http.disconnect`` once the response is complete: close the watch before the last ``send``, or expect
    the call although the client has everything. A ``receive`` that raises counts as a client that left.

    Not thread-safe: create, start and close it on the loop that serves the connection.
    """

    __slots__ = ("_awaitable", "_future", "_on_disconnect", "_receive")

    def __init__(self, receive: Receive, on_disconnect: Callable[[], None]) -> None:
        self._receive = receive
        self._on_disconnect: Callable[[], None] | None = on_disconnect
        self._awaitable: Coroutine[Any, Any, Message] | None = None
        # The future that uvicorn's receive awaits, or the task that awaits any other receive.
        self._future: asyncio.Future[Any] | None = None

    def start(self) -> None:
        """Begin to listen. Call it once."""
        if needs_no_task(self._receive):
            self._step()
        else:
            self._future = asyncio.get_running_loop().create_task(self._listen())

    def close(self) -> None:
        """Stop listening; idempotent. Works on a closed loop too, so it is safe in ``finally``."""
        self._on_disconnect = None
        future, self._future = self._future, None
        awaitable, self._awaitable = self._awaitable, None
        if awaitable is not None:
            if future is not None:
                future.remove_done_callback(self._step)
            awaitable.close()
        elif isinstance(future, asyncio.Task) and not future.done() and not future.get_loop().is_closed():
            future.cancel()

    def _step(self, woken: asyncio.Future[Any] | None = None) -> None:
        """Run ``receive()`` until it has to wait, has the disconnect, or fails."""
        self._future = None
        while self._on_disconnect is not None:
            if self._awaitable is None:
                self._awaitable = self._receive()  # type: ignore[assignment]  # a coroutine: see start()
            try:
                future = self._awaitable.send(None)  # type: ignore[union-attr]
            except StopIteration as done:
                self._awaitable = None
                if done.value["type"] not in DISCONNECTS:
                    continue
            except asyncio.CancelledError:  # the future was cancelled, and the rest of the request will be
                self._awaitable = None
                return
            except Exception:
                self._awaitable = None
                logger.exception("receive() failed; the client counts as gone")
            else:
                # A task and the future it awaits agree by this flag that the task will wait.
                future._asyncio_future_blocking = False
                future.add_done_callback(self._step)
                self._future = future
                return
            self._left(soon=woken is None)
            return

    def _left(self, *, soon: bool) -> None:
        if soon:  # still inside start(): its caller may not be ready for the call
            asyncio.get_running_loop().call_soon(self._report)
        else:
            self._report()

    def _report(self) -> None:
        on_disconnect, self._on_disconnect = self._on_disconnect, None
        if on_disconnect is not None:
            on_disconnect()

    async def _listen(self) -> None:
        try:
            while (await self._receive())["type"] not in DISCONNECTS:
                pass
        except Exception:
            logger.exception("receive() failed; the client counts as gone")
        self._report()


def needs_no_task(receive: Receive) -> bool:
    """Whether ``receive()`` needs no task around it: uvicorn's own, hypercorn's ``Queue.get``."""
    if not isinstance(receive, MethodType):
        return False
    return type(receive.__self__) is asyncio.Queue or is_cycle(receive.__self__)
