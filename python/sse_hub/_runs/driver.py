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
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from sse_hub._core import Publication, RunPump
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.existence import until_shown
from sse_hub._runs.left import leave
from sse_hub._runs.options import RunOptions
from sse_hub._runs.source import close_source
from sse_hub._runs.states import RunState
from sse_hub._stopping.registry import Registration
from sse_hub._stopping.work import register_work
from sse_hub.exceptions import HubClosed, HubError, HubFull, LeaseLost, RunTooLarge, TopicEnded

__all__ = ["RunDriver", "lease_of"]

logger = logging.getLogger("sse_hub")

_PATIENCE = 0.01  # seconds between two attempts to publish while delivery is behind
_AHEAD = 64  # events that may wait for the broker's answer
_SOON = 5.0  # seconds in which this process catches up with the broker
_BURST = 32  # events after which the loop's other tasks get a turn, however fast the generator is


def lease_of(name: str) -> str:
    """The name of a run's lease. The core uses the same name."""
    return f"run:{name}"


class RunDriver:
    """One run. Call every method on the loop that it was started on, unless the method says otherwise.

    ``token`` is that of the run's lease; None without a broker.
    """

    run: Any  # passed to `on_finish`

    def __init__(
        self,
        hub: StreamingHub,
        name: str,
        source: AsyncIterator[Any],
        options: RunOptions,
        token: str | None = None,
    ) -> None:
        self.name = name
        self.keep = options.keep
        self.loop = asyncio.get_running_loop()
        self._state = RunState.RUNNING
        self.finished: Future[RunState] = Future()
        self.finished.set_running_or_notify_cancel()  # no waiter can cancel it for the others
        self._hub = hub
        self._source = source
        self._options = options
        self._token = token
        self._room = options.max_bytes
        self._events: list[Any] = []
        self._pump: RunPump | None = None
        self._unsettled: deque[Publication] = deque()
        self._end_in_log: Callable[[], str | None] = lambda: None
        self._is_stopping = False
        self._is_left = False
        self._is_ending = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.over: Future[None] = Future()  # once it has ended and `on_finish` has returned
        self.over.set_running_or_notify_cancel()
        self.finishing: asyncio.Future[None] | None = None  # an `on_finish` that goes on
        self._registration: Registration | None = None

    @property
    def state(self) -> RunState:
        """The state by the log: watchers may learn of the end before the broker answers this process."""
        if self._state is RunState.RUNNING:
            return self._state_in_log(RunState.RUNNING)
        return self._state

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        self._task = self._spawn(self._drive())
        self._task.add_done_callback(self._driven)
        self._registration = register_work(_Work(self))
        if self._options.idle is not None:
            self._spawn(self._watch_idle(self._options.idle))
        if self._token is not None:
            self._end_in_log = self._hub._watch_end(self.name)
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
            if self._pump is not None:
                self._pump.end()
            self._task.cancel()
            self.loop.call_later(patience, self.give_up)

    def stop_threadsafe(self, patience: float) -> None:
        """The same from any thread. A run whose loop is closed ends at once."""
        try:
            self.loop.call_soon_threadsafe(self.stop, patience)
        except RuntimeError:
            self.end(RunState.STOPPED)

    def end(self, state: RunState, error: Exception | None = None) -> None:
        """Tell the watchers, once. May be called from any thread."""
        if self._is_ending.acquire(blocking=False):
            self._end(state, self._text(error))

    def _end(self, state: RunState, text: str | None) -> None:
        try:
            published = self._hub._end_run(self.name, self.keep, state, text, self._token)
        except TopicEnded:
            state = self._state_in_log(state)
        except HubFull:
            if self._on_loop(lambda: self.loop.call_later(_PATIENCE, self._end_now, state, text)):
                return
        except HubError as failed:  # if the hub has closed, its watchers were told that
            if not isinstance(failed, HubClosed):
                logger.error(
                    "hub %r: run %r: its end was not published: %s", self._hub.name, self.name, failed
                )
        else:
            if self._token is not None and self._on_loop(lambda: self._spawn(self._settle(published, state))):
                return
        self._ended(state)

    def _end_now(self, state: RunState, text: str | None) -> None:
        """Try again, unless others declare the run lost, or the hub was closed: this would open it again."""
        if self._token is not None and not self._hub._holds(lease_of(self.name), self._token):
            self._ended(self._state_in_log(RunState.LOST))
        else:
            self._end(state, text)

    async def _settle(self, published: Publication, state: RunState) -> None:
        """Wait for the broker's answer to the publication of the end."""
        try:
            await published
            await self._until_read()
        except LeaseLost:
            state = RunState.LOST
        except TopicEnded:
            await self._until_read()
            state = self._state_in_log(RunState.LOST)
        except HubError as failed:
            # Nothing renews its lease: the other processes will declare the run lost.
            logger.error("hub %r: run %r: its end was not published: %s", self._hub.name, self.name, failed)
        finally:
            while self._unsettled:  # of a run that failed or was stopped: their outcome no longer matters
                with suppress(HubError):
                    await self._unsettled.popleft()
            self._ended(state)

    async def _until_read(self) -> None:
        """Wait until this process has read the end from the log: the next run of this name is another one."""
        with suppress(HubClosed, TimeoutError):
            async with asyncio.timeout(_SOON):
                await until_shown(self._hub, self.name, self._has_read_end)

    def _has_read_end(self) -> bool:
        return self._end_in_log() is not None or self._hub._ending(self.name) is not None

    def _ended(self, state: RunState) -> None:
        self._state = state
        self.finished.set_result(state)
        if self._token is not None:
            self._hub._release(lease_of(self.name), self._token)
        if self._options.on_finish is None:
            self._over()
            return
        if not self._on_loop(self._call_on_finish):
            self._over()

    def _on_loop(self, then: Callable[[], object]) -> bool:
        """Call ``then`` on the run's loop; at once, if that is the running one. False if it is closed."""
        if asyncio._get_running_loop() is self.loop:
            then()
            return True
        try:
            self.loop.call_soon_threadsafe(then)
        except RuntimeError:
            return False
        return True

    def _call_on_finish(self) -> None:
        assert self._options.on_finish is not None
        self.finishing = self._hub._call(self._options.on_finish, self.run, self._events)
        if self.finishing is None:
            self._over()
        else:
            self.finishing.add_done_callback(lambda _: self._over())

    def _over(self) -> None:
        """Its server no longer needs to wait for it."""
        self.over.set_result(None)
        if self._registration is not None:
            self._registration.unregister()

    def _state_in_log(self, otherwise: RunState) -> RunState:
        """The run's state by the end in the log; ``otherwise`` if the log has no end of a run."""
        ended = self._end_in_log() or self._hub._ending(self.name)
        return otherwise if ended is None or ended == "ended" else RunState(ended)

    def give_up(self) -> None:
        """Tell the watchers of a run that was stopped, although its function has not returned.

        May be called from any thread.
        """
        self._on_loop(self._leave)
        self.end(RunState.STOPPED)

    def _leave(self) -> None:
        if self._is_stopping and not self._task.done() and not self._is_left:
            self._is_left = True
            logger.warning(
                "hub %r: run %r was stopped, and its function has not returned yet; its watchers are told",
                self._hub.name,
                self.name,
            )
            self._spawn(leave(self._task))

    # The task.

    async def _drive(self) -> None:
        state, error = RunState.DONE, None
        try:
            await (self._publish_alone() if self._token is None else self._publish_over_broker(self._token))
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
        if self._is_stopping:
            state = RunState.STOPPED
        if error is not None:
            self._log(error)
        self.end(state, error if state is RunState.FAILED else None)

    async def _publish_alone(self) -> None:
        """Publish what the generator yields, in this process alone."""
        published = None if self._options.on_finish is None else self._events
        self._pump = pump = RunPump(self._hub, self.name, self._source, self._room, published)
        while (unpublished := await pump) is not None:
            # While delivery is behind; nothing announces that it has caught up.
            while (is_published := pump.publish(unpublished[0])) is None:  # noqa: ASYNC110
                await asyncio.sleep(_PATIENCE)
            if not is_published:
                raise self._too_large()

    async def _publish_over_broker(self, token: str) -> None:
        name, publish = self.name, self._hub._publish_part
        keeps = self._options.on_finish is not None
        unsettled = self._unsettled
        count = 0
        # Without a coroutine for each event, which costs as much as publishing it.
        async for value in self._source:
            if self._is_stopping:
                return
            try:
                published = publish(name, value, self._room, token)
            except HubFull:
                published = await self._publish_later(value, token)
            if published is None:
                raise self._too_large()
            self._room -= published[1]
            if keeps:
                self._events.append(value)
            unsettled.append(published[0])
            if len(unsettled) > _AHEAD:
                # One wait for many: answers come in the order of the events.
                await unsettled[_AHEAD // 2]
            while unsettled and unsettled[0].done():
                # An event that the broker did not accept would be a gap in the run, so the run fails.
                await unsettled.popleft()
            count += 1
            if count % _BURST == 0:
                await asyncio.sleep(0)
        while unsettled:
            await unsettled.popleft()

    def _too_large(self) -> RunTooLarge:
        limit = self._options.max_bytes
        return RunTooLarge(
            f"run {self.name!r} yields more than max_bytes={limit}; its last event was not published"
        )

    async def _publish_later(self, value: Any, token: str) -> tuple[Publication, int] | None:
        while True:
            await asyncio.sleep(_PATIENCE)
            try:
                return self._hub._publish_part(self.name, value, self._room, token)
            except HubFull:
                continue

    def _driven(self, task: asyncio.Task[None]) -> None:
        self.end(RunState.STOPPED)  # one that was cancelled before its first step
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("hub %r: run %r: its end failed", self._hub.name, self.name, exc_info=error)

    def _log(self, error: Exception) -> None:
        trace = None if isinstance(error, RunTooLarge) else error
        logger.error("hub %r: run %r failed: %s", self._hub.name, self.name, error, exc_info=trace)

    def _text(self, error: Exception | None) -> str | None:
        """The text about a failure for clients: only what the application returns."""
        if error is None or self._options.error is None:
            return None
        try:
            text = self._options.error(error)
            if text is not None and not isinstance(text, str):
                raise TypeError(f"error= returns a str or None, not {type(text).__name__}")
        except Exception:
            logger.exception("hub %r: run %r: error= failed", self._hub.name, self.name)
            return None
        return text

    # The tasks beside it.

    async def _watch_idle(self, idle: float) -> None:
        """Stop the run when nobody has watched it for ``idle`` seconds."""
        watched = self.loop.time()
        while not self.finished.done():
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
        while not self.finished.done() and not self._is_stopping:
            changed = hub._run_changed(self.name, token)  # first, so that no change is missed
            if (
                hub._take_stop(self.name)
                or hub._ending(self.name) is not None
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
        return self._driver.over.done()

    def abort(self) -> None:
        self._driver.give_up()
