"""The body of one ``EventSourceResponse``: its content's events, and the pings between them."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from starlette.types import Message, Receive, Send

from sse_hub._core import Pump, Subscription
from sse_hub._responses.content import FOR_EVER, close_content
from sse_hub._responses.sending import send_within
from sse_hub._responses.streamed import Streamed
from sse_hub._servers import Buffers, find_departure
from sse_hub._servers.uvicorn_writing import ChunkedConnection, begin, connection_of
from sse_hub.event import ServerSentEvent, _encoder
from sse_hub.event import _ensure_bytes as ensure_bytes

__all__ = ["EventBody"]

logger = logging.getLogger("sse_hub.sse")


class EventBody:
    """Drives the content in one task, the first of ``_tasks``, and sends a ping when its timer says so."""

    __slots__ = (
        "_closed",
        "_complete",
        "_ending",
        "_finishing",
        "_has_left",
        "_hidden",
        "_ping_sent",
        "_ping_timer",
        "_pump",
        "_receive",
        "_response",
        "_send",
        "_sending",
        "_started",
        "_tasks",
        "_timer",
        "loop",
    )

    def __init__(self, response: Streamed, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self._response = response
        self._receive = receive
        self._send = send
        self._has_left = find_departure(send)
        # The body first, then the data sender, the client's close handler, and a ping that is being sent.
        self._tasks: list[asyncio.Future[None]] = []
        self._pump: Pump | None = None
        self._hidden: Buffers | None = None  # of a subscription's connection, which has to be asked for room
        self._ping_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the grace period, or of the cleanup
        self._ping_sent: asyncio.Future[None] | None = None  # while a ping is sent: the body waits for it
        self._sending = False  # the body is sending
        # How far the response is: head sent, end being sent, end sent; content closed; tasks being cancelled.
        self._started = self._finishing = self._complete = self._closed = self._ending = False

    # What the stream does.

    async def _send_head(self, start: Message | None, is_direct: bool) -> ChunkedConnection | None:
        """Send a head that was not sent. Returns the connection to write to; None if ``send`` has to."""
        if is_direct:
            if start is not None:
                return await begin(self._receive, self._send, start)
            return connection_of(self._receive, self._send)
        if start is not None:
            await self._send(start)
        return None

    def _client_left(self) -> None:
        raise NotImplementedError

    def _ask_again(self) -> None:
        raise NotImplementedError

    def _fail(self, error: BaseException) -> None:
        raise NotImplementedError

    def _start_task(self, task: asyncio.Future[None]) -> None:
        raise NotImplementedError

    # The body's task.

    async def _drive(self, start: Message | None) -> None:
        """Send the head, the content's events, and the end."""
        response = self._response
        self._sending = True
        is_direct = response.send_timeout is None and not logger.isEnabledFor(logging.DEBUG)
        connection = await self._send_head(start, is_direct)
        self._started = True
        self._sending = False
        self._pump = pump = self._make_pump(connection)
        del connection  # the stream may last for days, and has no use for the bytes of its head
        try:
            await pump
        except BaseException:
            # The content may be suspended where it yielded: closing it runs its cleanup before this goes on.
            await self._close_content()
            raise
        finally:
            self._pump = None
        if self._ping_sent is not None:
            await self._ping_sent
        self._finishing = True
        response.active = False
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self._complete = True

    def _make_pump(self, connection: ChunkedConnection | None) -> Pump:
        """What drives the content, and writes a head that was not written with the first event."""
        content, sep = self._response.body_iterator, self._response.sep
        if connection is None:
            return Pump.sending(content, _encoder, sep, self._send_events)
        if self._hidden is not None:
            connection = self._hidden.bound(connection)
        try:
            return Pump(content, _encoder, sep, *connection)
        except BaseException:
            transport, _, _, head = connection
            transport.write(head)
            raise

    async def _send_events(self, chunk: bytes) -> None:
        """Send the events that the content had ready."""
        logger.debug("chunk: %s", chunk)
        if self._ping_sent is not None:
            await self._ping_sent
        self._sending = True
        message = {"type": "http.response.body", "body": chunk, "more_body": True}
        try:
            send = self._send if self._hidden is None else self._hidden.sender(self._send)
            await send_within(self._response.send_timeout, send, message)
        except BaseException:
            self._limit_cleanup()
            raise
        self._sending = False
        if self._has_left is not None and self._has_left():
            self._client_left()

    def _check_departure(self) -> None:
        """Notice a client that left if another ``receive`` took the message."""
        if self._has_left is not None and self._has_left():
            self._client_left()
        else:
            self._ask_again()

    def _limit_cleanup(self) -> None:
        """Cancel content again that goes on for too long after a failed send."""
        limit = self._response._cleanup_timeout
        if limit is not None and not self._ending:
            # Closing content that yielded has its own limit of as many seconds; this one expires after it.
            self._timer = self.loop.call_later(min(limit + 1, FOR_EVER), self._cancel_cleanup)

    def _cancel_cleanup(self) -> None:
        if self._tasks and not self._tasks[0].done():
            logger.warning("A stream's content did not end after a failed send; it is cancelled again")
            self._tasks[0].cancel()

    async def _close_content(self) -> None:
        """Close content that has not ended, once."""
        content = self._response.body_iterator
        if not (self._finishing or self._closed or isinstance(content, Subscription)):
            self._closed = True
            await close_content(content, self._response._cleanup_timeout)

    # Pings.

    def _schedule_ping(self) -> None:
        interval = self._response.ping_interval
        if interval > 0 and self._response._pings:
            self._ping_timer = self.loop.call_later(min(interval, FOR_EVER), self._ping)

    def _ping(self) -> None:
        pump = self._pump
        # While the body sends, the connection is not idle, and a ping would only queue up behind it.
        if pump is None or self._sending or pump.is_busy or self._finishing:
            self._schedule_ping()
            return
        try:
            chunk = ensure_bytes(self._ping_message(), self._response.sep)
            logger.debug("ping: %s", chunk)
            if pump.write(chunk):
                self._check_departure()
                self._schedule_ping()
            else:
                self._start_task(self.loop.create_task(self._send_ping(chunk)))
        except Exception as error:
            self._fail(error)

    async def _send_ping(self, chunk: bytes) -> None:
        message = {"type": "http.response.body", "body": chunk, "more_body": True}
        sent = self._ping_sent = self.loop.create_future()
        try:
            await send_within(self._response.send_timeout, self._send, message)
        finally:
            self._ping_sent = None
            if not sent.done():
                sent.set_result(None)
        self._check_departure()
        self._schedule_ping()

    def _ping_message(self) -> Any:
        factory = self._response.ping_message_factory
        if factory is not None:
            return factory()
        return ServerSentEvent(comment=f"ping - {datetime.now(UTC)}", sep=self._response.sep)
