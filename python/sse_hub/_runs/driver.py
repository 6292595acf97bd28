"""Drives one run: a task of the hub publishes what the run's generator yields, and then the end.

::

    running --the generator returns--> done
       |-- raises, or yields more than max_bytes --> failed
       |-- stop, idle, the hub or the server closes --> stopped
       '-- its lease is no longer held --> lost

No watcher drives it: watchers are subscribers of its topic, which keeps everything until it is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.ending import RunEnding, lease_of
from sse_hub._runs.left import leave
from sse_hub._runs.options import RunOptions
from sse_hub._runs.publishing import RunPublisher
from sse_hub._runs.source import close_source
from sse_hub._runs.states import RunState
from sse_hub._stopping.work import register_work
from sse_hub.exceptions import HubClosed, HubError, LeaseLost, RunTooLarge, TopicEnded

__all__ = ["RunDriver"]

logger = logging.getLogger("sse_hub")


class RunDriver:
    """One run. Call every method on the loop that it was started on, unless the method says otherwise.

    ``mark`` is the token of the run's lease; without a broker, the number with which the hub began the run.
    Only a stop ends the run before ``returned`` is set: whoever has started it has a moment to watch it.
    """

    def __init__(
        self,
        hub: StreamingHub,
        name: str,
        source: AsyncIterator[Any],
        options: RunOptions,
        mark: str | int,
        returned: asyncio.Event | None = None,
    ) -> None:
        self.name = name
        self.keep = options.keep
        self.loop = asyncio.get_running_loop()
        self._hub = hub
        self._source = source
        self._idle = options.idle
        self._mark = mark
        self._returned = returned
        self._token = mark if isinstance(mark, str) else None
        self._publisher = RunPublisher(hub, name, source, options, mark)
        self.ending = RunEnding(hub, name, options, mark, self._publisher, self._spawn)
        self._is_stopping = False
        self._is_left = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        self._task = self._spawn(self._drive())
        self._task.add_done_callback(self._driven)
        registration = register_work(_Work(self))
        # Its server no longer needs to wait for it.
        self.ending.over.add_done_callback(lambda _: registration.unregister())
        if self._idle is not None:
            self._spawn(self._watch_idle(self._idle))
        if self._token is not None:
            self.ending.watch()
            watching = self._spawn(self._watch_others(self._token))
            self._task.add_done_callback(lambda _: watching.cancel())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work, context=copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop(self, patience: float) -> None:
        """Cancel the generator where it waits. Watchers are told once it has closed, or after a while."""
        if not self._task.done() and not self._is_stopping:
            self._is_stopping = True
            self._publisher.stop()
            self._task.cancel()
            self.loop.call_later(patience, self.give_up)

    def stop_threadsafe(self, patience: float) -> None:
        """The same from any thread. A run whose loop is closed ends at once."""
        try:
            self.loop.call_soon_threadsafe(self.stop, patience)
        except RuntimeError:
            self.ending.begin(RunState.STOPPED)

    def topic_ended(self) -> None:
        """Stop, from any thread, if the application has ended the run's topic. Without a broker."""
        if isinstance(self._mark, int) and not self._hub._runs_alone(self.name, self._mark):
            self.stop_threadsafe(self._hub.grace)

    def give_up(self) -> None:
        """Tell the watchers of a run that was stopped, although its function has not returned.

        May be called from any thread.
        """
        self.ending.on_loop(self._leave)
        self.ending.begin(RunState.STOPPED)

    def _leave(self) -> None:
        if self._is_stopping and not self._task.done() and not self._is_left:
            self._is_left = True
            logger.warning(
                "hub %r: run %r was stopped, and its function has not returned yet; its watchers are told",
                self._hub.name,
                self.name,
            )
            self._spawn(leave(self._task))

    async def _drive(self) -> None:
        state, error = RunState.DONE, None
        try:
            await self._publisher.publish()
        except (asyncio.CancelledError, HubClosed, TopicEnded, LeaseLost):
            state = RunState.STOPPED
        except Exception as raised:
            state, error = RunState.FAILED, raised
        try:
            await close_source(self._source)
        except asyncio.CancelledError:  # the loop ends, and waits no longer
            pass
        except Exception as raised:
            logger.error(
                "hub %r: run %r: its function could not be closed", self._hub.name, self.name, exc_info=raised
            )
        if self._returned is not None:
            with suppress(asyncio.CancelledError):  # a stop
                await self._returned.wait()
        if self._is_stopping:
            state = RunState.STOPPED
        if error is not None:
            self._log(error)
        self.ending.begin(state, error if state is RunState.FAILED else None)

    def _driven(self, task: asyncio.Task[None]) -> None:
        self.ending.begin(RunState.STOPPED)  # one that was cancelled before its first step
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("hub %r: run %r: its end failed", self._hub.name, self.name, exc_info=error)

    def _log(self, error: Exception) -> None:
        trace = None if isinstance(error, RunTooLarge) else error
        logger.error("hub %r: run %r failed: %s", self._hub.name, self.name, error, exc_info=trace)

    # The tasks beside it.

    async def _watch_idle(self, idle: float) -> None:
        """Stop the run when nobody has watched it for ``idle`` seconds."""
        watched = self.loop.time()
        while not self.ending.finished.done():
            await asyncio.sleep(min(idle / 4, 1.0))
            now = self.loop.time()
            try:
                watchers = self._hub.count(self.name) or len(await self._watchers_elsewhere())
            except HubError:  # unknown: assume that there is one
                watchers = 1
            if watchers:
                watched = now
            elif now - watched >= idle:
                logger.info(
                    "hub %r: run %r is stopped: nobody has watched it for %s s",
                    self._hub.name,
                    self.name,
                    idle,
                )
                self.stop(self._hub.grace)
                return

    async def _watchers_elsewhere(self) -> list[str]:
        return [] if self._token is None else await self._hub._present(self.name)

    async def _watch_others(self, token: str) -> None:
        """Stop the run when another process asks for it, has ended it, or may have: the lease is not held."""
        hub = self._hub
        while not self.ending.finished.done() and not self._is_stopping:
            changed = hub._run_changed(self.name, token)  # first, so that no change is missed
            if (
                hub._take_stop(self.name)
                or self.ending.is_read()
                or not hub._holds(lease_of(self.name), token)
            ):
                changed.cancel()
                self.stop(hub.grace)
                return
            try:
                await changed
            except HubClosed:  # which stops its runs
                return


class _Work:
    """A run as work that ends with its server."""

    def __init__(self, driver: RunDriver) -> None:
        self._driver = driver

    @property
    def grace(self) -> float:
        return self._driver._hub.grace

    def stop(self) -> None:
        self._driver.stop(self.grace / 2)  # the rest is for telling the watchers, and for `on_finish`

    def end(self) -> None:
        self.stop()

    def finished(self) -> bool:
        return self._driver.ending.over.done()

    def abort(self) -> None:
        self._driver.give_up()
