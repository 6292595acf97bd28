"""An ``EventSourceResponse`` whose request has ended: its content and its connection are all that remains."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from typing import Any

from starlette.types import Message

from sse_hub._handoff.owned import OwnedConnection
from sse_hub._responses.content import is_closed
from sse_hub._responses.event_stream import EventStream
from sse_hub._responses.streamed import Streamed
from sse_hub._servers.uvicorn_writing import ChunkedConnection, socket_of
from sse_hub._stopping.handed import handed_off
from sse_hub._stopping.registry import RunningServer

__all__ = ["DetachedStream"]

logger = logging.getLogger("sse_hub.sse")


class DetachedStream(EventStream):
    """The same stream without a task that waits for its end.

    ::

        open --over--> ending --> closing --the client has everything--> gone
          |------------------------'  |--the server stops, and its grace is over: abort--> gone
          '--the connection is lost: over

    Ending is a task only if something has to be awaited.
    """

    __slots__ = ("_connected", "_context", "_group", "_has_ended")

    def __init__(self, response: Streamed, connection: OwnedConnection, server: RunningServer) -> None:
        super().__init__(response, _receives_nothing, connection.send)
        self._connected = connection
        self._has_left = None
        self._has_ended = False
        self._context = copy_context()
        self._group = _streams_of(server)

    def open(self, server: RunningServer) -> None:
        """Begin to drive the content, in a copy of the present context."""
        self._connected.on_lost = self._lost
        self._group.streams.add(self)
        self._begin(None)
        handed_off(server, self._group, server.switched_group)
        if self._connected.is_lost:
            self._lost()

    def abort(self) -> None:
        self._connected.abort()

    def _new_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # What ends a stream whose request is over runs in the context of the connection, or of the server.
        return self.loop.create_task(coroutine, context=self._context.copy())

    def _abort_connection(self) -> bool:
        self._connected.abort()
        return True

    async def _abort_before_end(self) -> None:
        self._connected.abort()

    async def _send_head(self, start: Message | None, is_direct: bool) -> ChunkedConnection | None:
        if is_direct:
            transport = self._connected.transport
            return transport, self._connected, socket_of(transport), self._connected.take_head()
        self._connected.write_head()
        return None

    def _shield(self) -> AbstractContextManager[object]:
        return nullcontext()  # the task that ends it is in no scope

    def _lost(self) -> None:
        self._client_left()
        self._forget()

    def _say_over(self) -> None:
        self.loop.call_soon(self._begin_end)

    def _begin_end(self) -> None:
        if self._cancel_tasks():
            self.loop.call_soon(self._end_now)  # nearly all content has ended by then
        else:
            self._end_now()

    def _end_now(self) -> None:
        """End the stream; in a task if something has to be awaited."""
        content = self._response.body_iterator
        if (
            not all(task.done() for task in self._tasks)
            or not (self._finishing or self._closed or is_closed(content))
            or (self._stopping and not (self._gone or self._complete))
            or self._failure is not None
            or self._failures()
            or getattr(self._response, "background", None) is not None
        ):
            self._group.hold(self._new_task(self._see_out()))
            return
        self._clear()
        self._finish()

    async def _see_out(self) -> None:
        response = self._response
        try:
            try:
                await self._end(None)
            finally:
                errors = self._clear()
            if errors:
                error = errors[0] if len(errors) == 1 else BaseExceptionGroup("several errors", errors)
                if not isinstance(error, asyncio.CancelledError):
                    logger.error("A stream that was handed off failed; its body breaks off", exc_info=error)
            elif (background := getattr(response, "background", None)) is not None:
                await background()
        except Exception:
            logger.exception("The background task of a stream that was handed off failed")
        finally:
            self._finish()

    def _finish(self) -> None:
        self._has_ended = True
        self._connected.close()
        self._forget()

    def _forget(self) -> None:
        if self._has_ended and self._connected.is_lost:
            self._group.streams.discard(self)


class _Streams:
    """The streams that one server let go, as the owner of a group."""

    def __init__(self) -> None:
        self.streams: set[DetachedStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def grace(self) -> float:
        return max((stream.grace for stream in self.streams), default=0.0)

    def hold(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)  # The loop holds tasks weakly.
        task.add_done_callback(self._tasks.discard)

    def _before_stop(self, then: Callable[[], None], /) -> None:
        then()

    # From any thread.

    def _stop_group(self, group: int) -> None:
        with suppress(RuntimeError):  # the loop was closed, and its connections with it
            self._loop.call_soon_threadsafe(self._stop)

    def _open_in_group(self, group: int) -> int:
        return len(self.streams)

    def _abort_group(self, group: int) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._abort)

    def _stop(self) -> None:
        for stream in list(self.streams):
            stream.stop()

    def _abort(self) -> None:
        for stream in list(self.streams):
            stream.abort()


# Nothing here refers to a server, so an entry goes with its server.
_groups: weakref.WeakKeyDictionary[RunningServer, _Streams] = weakref.WeakKeyDictionary()


def _streams_of(server: RunningServer) -> _Streams:
    streams = _groups.get(server)
    if streams is None:
        streams = _groups.setdefault(server, _Streams())
    return streams


async def _receives_nothing() -> Message:
    raise NotImplementedError("the request of this stream has ended")
