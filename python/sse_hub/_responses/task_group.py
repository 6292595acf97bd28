"""sse-starlette's way to stream, through methods that subclasses of its response call and override.

Each of them runs in a task of an anyio task group, and the first that returns cancels the others. It works
under trio, too. ``EventStream`` does the same with fewer tasks; this is for responses that override one of
these methods, for those that run them in a task group of their own, and for trio.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import anyio
from starlette.types import Message, Receive, Scope, Send

from sse_hub._core import Subscription
from sse_hub._ends import EndKind
from sse_hub._responses.content import close_content
from sse_hub._responses.disconnect import DISCONNECTS
from sse_hub._responses.sending import SendTimeoutError
from sse_hub._stopping.registry import switch
from sse_hub._stopping.serving import Serving, on_asyncio
from sse_hub.event import ServerSentEvent
from sse_hub.event import _ensure_bytes as ensure_bytes

__all__ = ["HOOKS", "TaskGroupStream"]

logger = logging.getLogger("sse_hub.sse")

_LAST_SEND = 0.5  # seconds in which a stopping stream sends its end
_POLL = 0.5  # seconds between two checks of AppStatus under trio

# Signals that this response's server stops, in the tasks of a response that is served here.
_exit: ContextVar[_Exit | None] = ContextVar("sse_hub_exit", default=None)


class _Exit:
    """The stop of a server as an event; a ``Stoppable``, whose connection is left to its own response."""

    grace = _LAST_SEND

    def __init__(self) -> None:
        self.event = anyio.Event()

    def stop(self) -> None:
        self.event.set()

    def end(self) -> None:
        self.stop()

    def finished(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class TaskGroupStream:
    """The methods, for ``EventSourceResponse`` to inherit; their names are sse-starlette's."""

    active: bool
    body_iterator: AsyncIterable[Any]
    client_close_handler_callable: Callable[[Message], Awaitable[None]] | None
    data_sender_callable: Callable[[], Coroutine[None, None, None]] | None
    ping_message_factory: Callable[[], Any] | None
    raw_headers: list[tuple[bytes, bytes]]
    send_timeout: float | None
    sep: str
    status_code: int
    _cleanup_timeout: float | None
    _lock: anyio.Lock | None
    _pings: bool
    _ping_interval: int | float
    _shutdown_event: anyio.Event | None
    _shutdown_grace_period: float

    @property
    def _send_lock(self) -> anyio.Lock:
        """Held while the end of the body or a ping is sent."""
        if self._lock is None:
            self._lock = anyio.Lock()
        return self._lock

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        with anyio.move_on_after(self.send_timeout) as limit:
            await send(message)
        if limit.cancel_called:
            raise SendTimeoutError

    async def _stream_response(self, send: Send) -> None:
        """Send the head, each of the content's events, and the end."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers},
        )
        async for item in self.body_iterator:
            try:
                chunk = ensure_bytes(item, self.sep)
                logger.debug("chunk: %s", chunk)
                await self._send_with_timeout(
                    send, {"type": "http.response.body", "body": chunk, "more_body": True}
                )
            except BaseException:
                # The content is suspended where it yielded: closing it runs its cleanup before this goes on.
                await close_content(self.body_iterator, self._cleanup_timeout)
                raise
        async with self._send_lock:
            self.active = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _listen_for_disconnect(self, receive: Receive) -> None:
        """Wait until the client leaves, then call its handler."""
        while self.active:
            message = await receive()
            if message["type"] in DISCONNECTS:
                self.active = False
                logger.debug("Got event: http.disconnect. Stop streaming.")
                if self.client_close_handler_callable is not None:
                    await self.client_close_handler_callable(message)

    @staticmethod
    async def _listen_for_exit_signal() -> None:
        """Wait until the server stops, or ``AppStatus`` ends all streams."""
        known = _exit.get()
        if known is not None:
            await _wait_for(known)
            return
        # In a task group of the application's own: the server that serves it is found when one stops.
        known = _Exit()
        with Serving({"type": "http"}, _never, known, switched=True):
            await _wait_for(known)

    async def _listen_for_exit_signal_with_grace(self) -> None:
        """The same; then set ``shutdown_event`` and give the content its grace period."""
        await self._listen_for_exit_signal()
        if self._shutdown_event is not None:
            self._shutdown_event.set()
        if self._shutdown_grace_period > 0:
            with anyio.move_on_after(self._shutdown_grace_period):
                while self.active:  # noqa: ASYNC110
                    await anyio.sleep(0.1)

    async def _ping(self, send: Send) -> None:
        """Send a ping every ``ping_interval`` seconds, which must not be 0."""
        while self.active:
            await anyio.sleep(self._ping_interval)
            factory = self.ping_message_factory
            if factory is not None:
                ping = factory()
            else:
                ping = ServerSentEvent(comment=f"ping - {datetime.now(UTC)}", sep=self.sep)
            chunk = ensure_bytes(ping, self.sep)
            logger.debug("ping: %s", chunk)
            async with self._send_lock:
                if self.active:
                    await self._send_with_timeout(
                        send, {"type": "http.response.body", "body": chunk, "more_body": True}
                    )

    async def _run_task_group(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the first of these methods returns."""
        stop = _Exit()
        token = _exit.set(stop)
        try:
            with Serving(scope, receive, stop, switched=True):
                await self._run_tasks(receive, send)
                if stop.event.is_set() and self.active:
                    with anyio.move_on_after(_LAST_SEND):
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            _exit.reset(token)
            if isinstance(self.body_iterator, Subscription):
                self.body_iterator._end(EndKind.CLIENT)
            else:
                await close_content(self.body_iterator, self._cleanup_timeout)
            self.active = False

    async def _run_tasks(self, receive: Receive, send: Send) -> None:
        try:
            async with anyio.create_task_group() as group:

                async def cancel_on_finish(method: Callable[..., Awaitable[None]], *args: Any) -> None:
                    await method(*args)
                    group.cancel_scope.cancel()

                group.start_soon(cancel_on_finish, self._stream_response, send)
                if self._ping_interval > 0 and self._pings:
                    group.start_soon(cancel_on_finish, self._ping, send)
                group.start_soon(cancel_on_finish, self._listen_for_exit_signal_with_grace)
                if self.data_sender_callable is not None:
                    group.start_soon(self.data_sender_callable)
                group.start_soon(cancel_on_finish, self._listen_for_disconnect, receive)
        except BaseExceptionGroup as errors:
            error = errors
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            try:
                raise error from error.__cause__
            finally:
                del error


HOOKS = (
    "_listen_for_disconnect",
    "_listen_for_exit_signal",
    "_listen_for_exit_signal_with_grace",
    "_ping",
    "_send_with_timeout",
    "_stream_response",
)
"""The methods that a subclass may override."""


async def _wait_for(stop: _Exit) -> None:
    if switch.ends_all:
        return
    if on_asyncio():
        await stop.event.wait()
    while not switch.ends_all and not stop.event.is_set():  # noqa: ASYNC110
        await anyio.sleep(_POLL)


async def _never() -> Message:
    await anyio.sleep_forever()
    raise AssertionError
