"""One ``EventSourceResponse`` in progress: its two tasks, and every way it ends.

The *body* task drives the user's generator and sends its events; nothing else touches the generator. The
request's own task, the *supervisor*, waits for everything else: the client leaves, a ping is due, the server
stops, the body ends. Most of the time it waits in ``receive()``, and other events interrupt that wait through
the ``asyncio.timeout`` around it. (Starlette's ``Request.is_disconnected`` also awaits ``receive()`` again
after an interruption, so servers and middleware are used to it.)

::

    streaming --body ended-------------------> ended
        |-----client left----> close handler -> cancel the body -> ended
        |-----server stops---> shutdown_event -> grace -> cancel the body -> end of the HTTP body -> ended
        `-----an exception---> cancel the body -> raised
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import anyio
from starlette.types import Message, Receive, Scope, Send

from sse_hub._core import Pump, Subscription
from sse_hub._ends import EndKind, EndReason
from sse_hub._responses.content import close_content
from sse_hub._responses.sending import SendTimeoutError, send_within
from sse_hub._responses.streamed import Streamed
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._servers import abort, find_departure, find_unsent
from sse_hub._servers.uvicorn_writing import connection_of
from sse_hub._stopping.serving import Serving
from sse_hub.event import ServerSentEvent, _encoder
from sse_hub.event import _ensure_bytes as ensure_bytes

logger = logging.getLogger("sse_hub.sse")

# Seconds beyond the user's grace period in which a stopping stream sends its end; then it is aborted.
_LAST_SEND = 0.5
# Three years, for streams that do not end with their server: uvloop's timers do not accept infinity.
_FOR_EVER = 10.0**8


class EventStream:
    """One response's stream; used once, on the loop that serves it."""

    def __init__(self, response: Streamed, scope: Scope, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self._response = response
        self._scope = scope
        self._receive = receive
        self._send = send
        self._has_left = find_departure(send)
        self._tasks: list[asyncio.Future[None]] = []  # the body first, then the user's data sender
        # The timeout that the supervisor waits under; moving its deadline to now interrupts the wait.
        self._wait: asyncio.Timeout | None = None
        self._interrupted = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ping_due = False
        self._ping_sent: asyncio.Future[None] | None = None  # while a ping is sent: the body waits for it
        self._sending = False  # the body is sending
        self._pump: Pump | None = None  # drives the content instead, if it writes to the connection itself
        # How far the response is: head sent, end being sent, end sent; content closed.
        self._started = self._finishing = self._complete = self._closed = False
        # Why the stream ends: the server stops (its content knows, its grace is over), or the client is
        # gone; and whether its tasks are being cancelled.
        self._stopping = self._told = self._overdue = self._gone = self._ending = False

    # Stoppable: what the server and AppStatus call.

    @property
    def grace(self) -> float:
        """Seconds the stream may take after :meth:`stop`."""
        return self._grace_period() + _LAST_SEND

    def stop(self) -> None:
        """End the stream within its grace period. On the stream's loop; idempotent."""
        self._stopping = True
        self._interrupt()

    def end(self) -> None:
        self.stop()

    def finished(self) -> bool:
        return not self._tasks or self._tasks[0].done()

    def abort(self) -> None:
        """End the stream of a client that accepts nothing: its ``send`` never returns."""
        if not self.finished() and not abort(self._receive):
            self._tasks[0].cancel()

    def _grace_period(self) -> float:
        grace: float = self._response._shutdown_grace_period
        source = self._response.body_iterator
        if isinstance(source, Subscription):  # ends within its hub's grace
            grace = max(grace, getattr(source._hub, "grace", 1.0))
        return min(grace, _FOR_EVER)

    # The supervisor: the request's own task.

    async def run(self, start: Message | None) -> None:
        """Stream until the end, from whichever side it comes; raises what went wrong.

        ``start`` is the head, or None if it was sent.
        """
        source = self._response.body_iterator
        self._start_tasks(start)
        if isinstance(source, Subscription):
            source._on_close(self._subscription_closed)
            if (unsent := find_unsent(self._receive)) is not None:
                source._ask_unsent(unsent)
            cast(StreamingHub, source._hub)._warn_of_workers(self._receive)
        failure: BaseException | None = None
        try:
            with Serving(self._scope, self._receive, self, switched=True):
                self._schedule_ping()
                try:
                    await self._supervise()
                except BaseException as error:
                    failure = error
                await self._end_tasks()
                await self._close_content()
                if (
                    failure is None
                    and self._stopping
                    and not (self._failures() or self._gone or self._complete)
                ):
                    await self._end_response(start)
        finally:
            self._response.active = False
            for timer in self._timers.values():
                timer.cancel()
            if isinstance(source, Subscription):
                source._end(EndKind.CLIENT)
            errors = self._failures()
            # A cancelled task keeps its exception, whose traceback leads back to this object. Without these
            # references, nothing of the stream has to wait for a garbage collection.
            self._tasks.clear()
            self._timers.clear()
        try:
            _raise(failure, errors)
        finally:
            del failure, errors  # what is raised has this frame in its traceback

    def _start_tasks(self, start: Message | None) -> None:
        self._tasks.append(self.loop.create_task(self._drive(start)))
        if self._response.data_sender_callable is not None:
            self._tasks.append(asyncio.ensure_future(self._response.data_sender_callable()))
        for task in self._tasks:
            task.add_done_callback(self._task_done)

    async def _supervise(self) -> None:
        """Wait, and send pings; returns when the body has ended or has to be cancelled."""
        while not (self._tasks[0].done() or self._overdue or self._failures()):
            if self._stopping and not self._told:
                self._tell()
            elif self._ping_due:
                await self._ping()
            elif await self._client_left():
                return

    async def _client_left(self) -> bool:
        """Wait for a message or an interruption. When the client left, call its handler and return True."""
        message: Message | None
        if self._has_left is not None and self._has_left():
            message = {"type": "http.disconnect"}  # another `receive` took the message
        else:
            message = await self._interruptible(self._receive)
        if message is None:
            return False
        if message["type"] != "http.disconnect":
            # A part of the request's body. Let other tasks run, in case these messages never end.
            await asyncio.sleep(0)
            return False
        self._gone = True
        logger.debug("Got event: http.disconnect. Stop streaming.")
        if self._finishing:
            # Servers also send this once the response is complete, so it means nothing to a handler.
            return True
        self._response.active = False
        if self._response.client_close_handler_callable is not None:
            await self._response.client_close_handler_callable(message)
        return True

    async def _interruptible(self, wait: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Any:
        """The result of ``wait()``; None when it was interrupted.

        Raises SendTimeoutError when it took longer than ``seconds``.
        """
        self._interrupted = False
        result = None
        try:
            async with asyncio.timeout(seconds) as limit:
                self._wait = limit
                result = await wait()
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._wait = None
        if limit.expired() and not self._interrupted:
            raise SendTimeoutError
        return result

    def _interrupt(self) -> None:
        """Make the supervisor check what has changed. If it is not waiting, it is about to check anyway."""
        if self._wait is not None and not self._interrupted:
            self._interrupted = True
            # Too late if the wait has just ended.
            with suppress(RuntimeError):
                self._wait.reschedule(self.loop.time())

    def _task_done(self, task: asyncio.Future[None]) -> None:
        # The data sender may return; only its failure matters, and nothing does once everything has ended.
        if self._tasks and (task is self._tasks[0] or self._failures()):
            self._interrupt()

    def _tell(self) -> None:
        """Announce that the server stops, and start the grace period."""
        self._told = True
        response = self._response
        if response._shutdown_event is not None:
            response._shutdown_event.set()
        if isinstance(response.body_iterator, Subscription):
            response.body_iterator._end(EndKind.SHUTDOWN)
        grace = self._grace_period()
        if grace > 0:
            self._timers["grace"] = self.loop.call_later(grace, self._out_of_grace)
        else:
            self._overdue = True

    def _out_of_grace(self) -> None:
        self._overdue = True
        self._interrupt()

    def _subscription_closed(self, reason: EndReason) -> None:
        if reason.kind is EndKind.STALLED:
            self.abort()

    # Pings.

    def _schedule_ping(self) -> None:
        interval = self._response.ping_interval
        if interval > 0 and self._response._pings:
            self._timers["ping"] = self.loop.call_later(min(interval, _FOR_EVER), self._time_for_ping)

    def _time_for_ping(self) -> None:
        self._ping_due = True
        self._interrupt()

    async def _ping(self) -> None:
        self._ping_due = False
        # While the body sends, the connection is not idle, and a ping would only queue up behind it.
        busy = self._sending or (self._pump is not None and self._pump.is_draining)
        if self._started and not busy and not self._finishing:
            chunk = ensure_bytes(self._ping_message(), self._response.sep)
            logger.debug("ping: %s", chunk)
            message = {"type": "http.response.body", "body": chunk, "more_body": True}
            sent = self._ping_sent = self.loop.create_future()
            try:
                await self._interruptible(lambda: self._send(message), self._response.send_timeout)
            finally:
                self._ping_sent = None
                if not sent.done():
                    sent.set_result(None)
        self._schedule_ping()

    def _ping_message(self) -> Any:
        factory = self._response.ping_message_factory
        if factory is not None:
            return factory()
        return ServerSentEvent(comment=f"ping - {datetime.now(UTC)}", sep=self._response.sep)

    # The body's task.

    async def _drive(self, start: Message | None) -> None:
        """Send the head, each of the content's events, and the end."""
        response, send, timeout = self._response, self._send, self._response.send_timeout
        sep = response.sep
        self._sending = True
        if start is not None:
            await send(start)
        self._started = True
        self._sending = False
        debug = logger.isEnabledFor(logging.DEBUG)
        connection = None if timeout is not None or debug else connection_of(self._receive, send)
        if connection is None:
            pump = Pump.sending(response.body_iterator, _encoder, sep, self._send_events)
        else:
            pump = Pump(response.body_iterator, _encoder, sep, *connection)
        self._pump = pump
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
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self._complete = True

    async def _send_events(self, chunk: bytes) -> None:
        """Send the events that the content had ready."""
        logger.debug("chunk: %s", chunk)
        if self._ping_sent is not None:
            await self._ping_sent
        self._sending = True
        message = {"type": "http.response.body", "body": chunk, "more_body": True}
        try:
            await send_within(self._response.send_timeout, self._send, message)
        except BaseException:
            self._limit_cleanup()
            raise
        self._sending = False
        if self._has_left is not None and self._has_left():
            self._interrupt()

    def _limit_cleanup(self) -> None:
        """Cancel content again that goes on for too long after a failed send."""
        limit = self._response._cleanup_timeout
        if limit is not None and not self._ending:
            # Closing content that yielded has its own limit of as many seconds; this one expires after it.
            self._timers["cleanup"] = self.loop.call_later(min(limit + 1, _FOR_EVER), self._cancel_cleanup)

    def _cancel_cleanup(self) -> None:
        if not self.finished():
            logger.warning("A stream's content did not end after a failed send; it is cancelled again")
            self._tasks[0].cancel()

    async def _close_content(self) -> None:
        """Close content that has not ended, once."""
        content = self._response.body_iterator
        if not (self._finishing or self._closed or isinstance(content, Subscription)):
            self._closed = True
            await close_content(content, self._response._cleanup_timeout)

    # The end.

    async def _end_tasks(self) -> None:
        """Cancel what still runs and wait for it: nothing of the stream is left when the response returns."""
        self._ending = True
        if self._pump is not None:
            self._pump.end()
        running = {task for task in self._tasks if not task.done()}
        if not running:
            return
        for task in running:
            task.cancel()
        # Closing the content has its own limit of as many seconds; this one expires after it.
        limit = self._response._cleanup_timeout
        patience = None if limit is None else limit + 1
        # A cancelled anyio scope around the request would interrupt every await from now on.
        with anyio.CancelScope(shield=True):
            while running:
                _, running = await asyncio.wait(running, timeout=patience)
                for task in running:
                    logger.warning("A stream took no notice of being cancelled; it is cancelled again")
                    task.cancel()

    async def _end_response(self, start: Message | None) -> None:
        """End the HTTP response of a stream that was cancelled because its server stops."""
        try:
            async with asyncio.timeout(_LAST_SEND):
                if start is not None and not self._started:
                    await self._send(start)
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            # The client reads nothing: an orderly close of its connection would take for ever.
            abort(self._receive)

    def _failures(self) -> list[BaseException]:
        """The exceptions of tasks that ended with one."""
        done = (task for task in self._tasks if task.done() and not task.cancelled())
        return [error for task in done if (error := task.exception()) is not None]


def _raise(failure: BaseException | None, errors: list[BaseException]) -> None:
    """Raise what went wrong: one exception as it is, several as a group."""
    try:
        if isinstance(failure, asyncio.CancelledError):
            raise failure
        if failure is not None:
            errors.append(failure)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("several errors in one event stream", errors)
    finally:
        del failure, errors  # they hold this frame
