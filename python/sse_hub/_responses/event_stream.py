"""One ``EventSourceResponse`` in progress: every way it ends.

The *body* task drives the user's generator and sends its events; nothing else touches the generator. The
request's own task waits until the stream is *over*: callbacks and timers say so, which cost less than a task
that waits for each of them.

::

    streaming --body ended-----------------------> over --> ended
        |-----client left--> close handler ------> over --> cancel the body --> ended
        |-----server stops-> event -> grace -----> over --> cancel the body --> end of the HTTP body --> ended
        `-----an exception-----------------------> over --> cancel the body --> raised
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from typing import Any, cast

from starlette.types import Message, Receive, Scope, Send

from sse_hub._core import Subscription
from sse_hub._ends import EndKind, EndReason
from sse_hub._responses.content import FOR_EVER
from sse_hub._responses.disconnect import DISCONNECTS, DisconnectWatch, needs_no_task
from sse_hub._responses.event_body import EventBody
from sse_hub._responses.sending import abort_before_end
from sse_hub._responses.shield import shielded
from sse_hub._responses.streamed import Streamed
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._servers import abort, find_buffers, find_progress
from sse_hub._stopping.serving import Serving

__all__ = ["EventStream", "logger"]

logger = logging.getLogger("sse_hub.sse")

# Seconds beyond the user's grace period in which a stopping stream sends its end; then it is aborted.
_LAST_SEND = 0.5


class EventStream(EventBody):
    """One response's stream; used once, on the loop that serves it."""

    __slots__ = ("_failure", "_gone", "_handler", "_limit", "_over", "_stopping", "_waiter")

    def __init__(self, response: Streamed, receive: Receive, send: Send) -> None:
        super().__init__(response, receive, send)
        self._waiter: asyncio.Future[None] | None = None  # of the request's task
        self._failure: BaseException | None = None
        self._handler: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None  # around the wait in `receive`
        self._stopping = self._gone = self._over = False

    # Stoppable: what the server and AppStatus call.

    @property
    def grace(self) -> float:
        """Seconds the stream may take after :meth:`stop`."""
        return self._grace_period() + _LAST_SEND

    def stop(self) -> None:
        """End the stream within its grace period. On the stream's loop; idempotent."""
        if self._stopping or self._gone:
            return
        self._stopping = True
        response = self._response
        if response._shutdown_event is not None:
            response._shutdown_event.set()
        if isinstance(response.body_iterator, Subscription):
            response.body_iterator._end(EndKind.SHUTDOWN)
        grace = self._grace_period()
        if grace > 0:
            self._timer = self.loop.call_later(grace, self._wake)
        else:
            self._wake()

    def end(self) -> None:
        self.stop()

    def finished(self) -> bool:
        return not self._tasks or self._tasks[0].done()

    def abort(self) -> None:
        """End the stream of a client that accepts nothing: its ``send`` never returns."""
        if not self.finished() and not self._abort_connection():
            self._tasks[0].cancel()

    def _abort_connection(self) -> bool:
        return abort(self._receive)

    async def _abort_before_end(self) -> None:
        await abort_before_end(self._receive)

    def _grace_period(self) -> float:
        grace: float = self._response._shutdown_grace_period
        source = self._response.body_iterator
        if isinstance(source, Subscription):  # ends within its hub's grace
            grace = max(grace, getattr(source._hub, "grace", 1.0))
        return min(grace, FOR_EVER)

    # The request's own task.

    async def run(self, scope: Scope, start: Message | None) -> None:
        """Stream until the end, from whichever side it comes; raises what went wrong.

        ``start`` is the head, or None if it was sent.
        """
        source = self._response.body_iterator
        buffers = None
        if isinstance(source, Subscription):
            buffers = find_buffers(scope, self._receive, self._send)
            if buffers is not None and buffers.is_hidden:
                self._hidden = buffers
        self._begin(start)
        if isinstance(source, Subscription):
            source._on_close(self._subscription_closed)
            if (ended := source.closed) is not None:  # while the head was held back
                self._subscription_closed(ended)
            if (progress := find_progress(self._receive)) is not None:
                source._ask_progress(progress)
            if buffers is not None:
                source._keep_fresh_by(buffers.narrow)
            cast(StreamingHub, source._hub)._warn_of_workers(self._receive)
        try:
            with Serving(scope, self._receive, self, switched=True):
                try:
                    await self._wait()
                except BaseException as error:
                    self._failure = error
                await self._end(start)
        finally:
            if isinstance(source, Subscription):
                source._end(EndKind.CLIENT)
            if buffers is not None:
                buffers.widen()
            errors = self._clear()
        try:
            _raise(errors)
        finally:
            del errors  # what is raised has this frame in its traceback

    async def _wait(self) -> None:
        """Wait until the stream is over, and notice when the client leaves."""
        self._check_departure()
        if needs_no_task(self._receive):
            watch = DisconnectWatch(self._receive, self._client_left)
            watch.start()
            try:
                await self._wait_over()
            finally:
                watch.close()
            return
        while not self._over:
            message: Message | None = None
            try:
                async with asyncio.timeout(None) as self._limit:
                    message = await self._receive()
            except TimeoutError:
                if self._limit is None or not self._limit.expired():
                    raise
            if message is not None and message["type"] in DISCONNECTS:
                self._client_left()
                break
            # A part of the request's body. Let other tasks run, in case these messages never end.
            await asyncio.sleep(0)
        self._limit = None
        await self._wait_over()

    async def _wait_over(self) -> None:
        if not self._over:
            self._waiter = self.loop.create_future()
            await self._waiter

    def _ask_again(self) -> None:
        """Interrupt the wait in ``receive``.

        A poll beside the stream may have taken the disconnect; then some middleware says so when it is asked
        anew. (Starlette's ``Request.is_disconnected`` also awaits ``receive`` again after an interruption, so
        servers and middleware are used to it.)
        """
        if self._limit is not None:
            with suppress(RuntimeError):  # the wait has just ended, or been interrupted
                self._limit.reschedule(self.loop.time())

    def _begin(self, start: Message | None) -> None:
        self._start_task(self.loop.create_task(self._drive(start)))
        if self._response.data_sender_callable is not None:
            self._start_task(asyncio.ensure_future(self._response.data_sender_callable()))
        self._schedule_ping()

    def _clear(self) -> list[BaseException]:
        """Let go of everything, and return what went wrong.

        A cancelled task keeps its exception, whose traceback leads back to this object. Without these
        references, nothing of the stream has to wait for a garbage collection.
        """
        self._response.active = False
        for timer in (self._ping_timer, self._timer):
            if timer is not None:
                timer.cancel()
        errors = self._failures()
        if self._failure is not None:
            errors.insert(0, self._failure)
        self._tasks.clear()
        self._ping_timer = self._timer = self._failure = self._handler = None
        return errors

    # What may happen to the stream.

    def _wake(self) -> None:
        """The stream is over."""
        if not self._over:
            self._over = True
            self._say_over()

    def _say_over(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._ask_again()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._wake()

    def _new_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task for code of the application, in the request's context."""
        return self.loop.create_task(coroutine)

    def _start_task(self, task: asyncio.Future[None]) -> None:
        self._tasks.append(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Future[None]) -> None:
        # The data sender and a ping may return: only their failure matters.
        if not self._tasks:
            return
        if task is self._tasks[0]:
            # The handler of a client that left ends before the response does.
            if self._handler is None or self._handler.done() or self._failures():
                self._wake()
        elif task is self._handler or (not task.cancelled() and task.exception() is not None):
            self._wake()
        else:
            self._tasks.remove(task)

    def _client_left(self) -> None:
        if self._gone:
            return
        self._gone = True
        logger.debug("Got event: http.disconnect. Stop streaming.")
        handler = self._response.client_close_handler_callable
        # Servers also send this once the response is complete, so it means nothing to a handler then.
        if self._finishing or self._over:
            self._wake()
            return
        self._response.active = False
        if handler is None:
            self._wake()
        else:
            self._handler = self._new_task(_call(handler))
            self._start_task(self._handler)

    def _subscription_closed(self, reason: EndReason) -> None:
        if reason.kind is EndKind.STALLED:
            self.abort()

    # The end.

    async def _end(self, start: Message | None) -> None:
        """End what still runs, and the response of a server that stops."""
        await self._end_tasks()
        await self._close_content()
        failed = self._failure is not None or self._failures()
        if self._stopping and not (failed or self._gone or self._complete):
            await self._end_response(start)

    def _cancel_tasks(self) -> bool:
        """Cancel what still runs, once. False if nothing does."""
        if not self._ending:
            self._ending = True
            if self._pump is not None:
                self._pump.end()
            for task in self._tasks:
                task.cancel()
        return not all(task.done() for task in self._tasks)

    async def _end_tasks(self) -> None:
        """Cancel what still runs and wait for it: nothing of the stream is left when the response returns."""
        if not self._cancel_tasks():
            return
        # Nearly all content ends at once, which costs less to see than to wait for.
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            self._failure = error
        running = {task for task in self._tasks if not task.done()}
        if not running:
            return
        # Closing the content has its own limit of as many seconds; this one expires after it.
        limit = self._response._cleanup_timeout
        patience = None if limit is None else limit + 1
        with self._shield():
            while running:
                _, running = await asyncio.wait(running, timeout=patience)
                for task in running:
                    logger.warning("A stream took no notice of being cancelled; it is cancelled again")
                    task.cancel()

    def _shield(self) -> AbstractContextManager[object]:
        """A cancelled scope around the request would interrupt every await from now on."""
        return shielded()

    async def _end_response(self, start: Message | None) -> None:
        """End the HTTP response of a stream that was cancelled because its server stops."""
        try:
            async with asyncio.timeout(_LAST_SEND):
                if start is not None and not self._started:
                    await self._send(start)
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            # The client reads nothing: an orderly close of its connection would take for ever.
            await self._abort_before_end()

    def _failures(self) -> list[BaseException]:
        """The exceptions of tasks that ended with one."""
        done = (task for task in self._tasks if task.done() and not task.cancelled())
        return [error for task in done if (error := task.exception()) is not None]


async def _call(handler: Callable[[Message], Awaitable[None]]) -> None:
    await handler({"type": "http.disconnect"})


def _raise(errors: list[BaseException]) -> None:
    """Raise what went wrong: one exception as it is, several as a group."""
    try:
        if errors and isinstance(errors[0], asyncio.CancelledError):
            raise errors[0]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("several errors in one event stream", errors)
    finally:
        del errors  # they hold this frame
