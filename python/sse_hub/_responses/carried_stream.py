"""One client's stream through its server, and how it is ended from outside."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from sse_hub._core import Subscription
from sse_hub._ends import EndKind, EndReason
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._servers import Buffers, abort, find_progress

__all__ = ["CarriedStream"]


class CarriedStream:
    """One client's stream, which its server (as a ``Stoppable``) and its hub may end."""

    __slots__ = ("_aborted", "_body", "_buffers", "_hub", "_progress", "_receive", "_subscription", "_timer")

    def __init__(
        self,
        hub: StreamingHub,
        subscription: Subscription,
        receive: Receive,
        buffers: Buffers | None,
        body: asyncio.Task[None],
    ) -> None:
        self._hub = hub
        self._subscription = subscription
        self._receive = receive
        self._body = body
        self._aborted = False
        self._timer: asyncio.TimerHandle | None = None
        self._progress = find_progress(receive)
        subscription._on_close(self._closed)
        if (ended := subscription.closed) is not None:  # while the head was held back
            self._closed(ended)
        if self._progress is not None:
            subscription._ask_progress(self._progress)
        self._buffers = buffers
        if buffers is not None:
            subscription._keep_fresh_by(buffers.narrow)

    @property
    def grace(self) -> float:
        return self._hub.grace

    def stop(self) -> None:
        self._hub._before_stop(self.end)

    def end(self) -> None:
        self._subscription._end(EndKind.SHUTDOWN)

    def finished(self) -> bool:
        return self._body.done()

    def client_left(self) -> None:
        self._subscription._end(EndKind.CLIENT)

    def over(self) -> None:
        """The response has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._buffers is not None:
            self._buffers.widen()

    def _closed(self, reason: EndReason) -> None:
        if self._body.done():
            return
        if reason.kind in (EndKind.STALLED, EndKind.OVERFLOW):
            self.abort()
        elif reason.kind is not EndKind.CLIENT:
            # What is queued still goes out, unless the client accepts nothing.
            self._check_later()

    def _check_later(self) -> None:
        left = self._progress() if self._progress is not None else None
        timeout = self._hub._stall_timeout
        self._timer = asyncio.get_running_loop().call_later(timeout, self._check, left)

    def _check(self, left: tuple[int, int | None] | None) -> None:
        if left is None or self._progress is None or self._progress() == left:
            self.abort()
        else:
            self._check_later()

    def abort(self) -> None:
        # A client that stopped reading never lets `send` return: its connection is aborted, or else the body
        # cancelled. It comes back with its last id.
        if not self._body.done() and not abort(self._receive):
            self._aborted = self._body.cancel()

    def was_aborted(self) -> bool:
        """Whether this object cancelled the body, and nothing cancelled the request."""
        task = asyncio.current_task()
        return self._aborted and (task is None or not task.cancelling())
