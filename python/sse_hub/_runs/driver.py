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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

from sse_hub._core import Publication
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.source import close_source
from sse_hub._runs.states import RunState
from sse_hub.exceptions import HubClosed, HubError, HubFull, LeaseLost, RunTooLarge, TopicEnded

__all__ = ["ErrorText", "OnFinish", "RunDriver", "RunOptions", "lease_of"]

logger = logging.getLogger("sse_hub")

OnFinish: TypeAlias = Callable[..., Awaitable[None] | None]
ErrorText: TypeAlias = Callable[[Exception], str | None]

_PATIENCE = 0.01  # seconds between two attempts to publish while delivery is behind
_AHEAD = 64  # events that may wait for the broker's answer
_LOOK = 0.1  # seconds between two checks of what other processes want
_SOON = 5.0  # seconds in which this process catches up with the broker
_BURST = 32  # events after which the loop's other tasks get a turn, however fast the generator is


def lease_of(name: str) -> str:
    """The name of a run's lease. The core uses the same name."""
    return f"run:{name}"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run, as ``Hub.run`` explains them."""

    keep: float
    idle: float | None
    max_bytes: int
    on_finish: OnFinish | None
    error: ErrorText | None

    @classmethod
    def checked(
        cls,
        keep: float,
        idle: float | None,
        max_bytes: int,
        on_finish: OnFinish | None,
        error: ErrorText | None,
    ) -> Self:
        """Return the options, or raise an exception that names the one that breaks a rule."""
        for name, value, least in (("keep", keep, "0 or more"), ("idle", idle, "more than 0")):
            if value is None and name == "idle":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"{name} is a number of seconds, not {type(value).__name__}")
            if not 0 <= value < float("inf") or (name == "idle" and value == 0):
                raise ValueError(f"{name} must be a number of seconds, {least}, not {value}")
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
            raise TypeError(f"max_bytes is an int, not {type(max_bytes).__name__}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        for name, function in (("on_finish", on_finish), ("error", error)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} takes a function, not {type(function).__name__}")
        return cls(keep, idle, max_bytes, on_finish, error)


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
        self.state = RunState.RUNNING
        self.finished: Future[RunState] = Future()
        self.finished.set_running_or_notify_cancel()  # no waiter can cancel it for the others
        self._hub = hub
        self._source = source
        self._options = options
        self._token = token
        self._room = options.max_bytes
        self._events: list[Any] = []
        self._unsettled: deque[Publication] = deque()
        self._is_stopping = False
        self._is_ending = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        self._task = self._spawn(self._drive())
        self._task.add_done_callback(self._driven)
        if self._options.idle is not None:
            self._spawn(self._watch_idle(self._options.idle))
        if self._token is not None:
            self._spawn(self._watch_others(self._token))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work, context=copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop(self, patience: float) -> None:
        """Cancel the generator where it waits. Watchers are told once it has closed, or after a while."""
        if not self.finished.done() and not self._is_stopping:
            self._is_stopping = True
            self._task.cancel()
            self.loop.call_later(patience, self._give_up)

    def stop_threadsafe(self, patience: float) -> None:
        """The same from any thread. A run whose loop is closed ends at once."""
        try:
            self.loop.call_soon_threadsafe(self.stop, patience)
        except RuntimeError:
            self.end(RunState.STOPPED)

    def end(self, state: RunState, error: Exception | None = None) -> None:
        """Tell the watchers, once. May be called from any thread."""
        if not self._is_ending.acquire(blocking=False):
            return
        try:
            published = self._hub._end_run(self.name, self.keep, state, self._text(error), self._token)
        except TopicEnded:
            self._ended(self._state_in_log(state))
        except HubError as failed:  # if the hub has closed, its watchers were told that
            if not isinstance(failed, HubClosed):
                logger.error(
                    "hub %r: run %r: its end was not published: %s", self._hub.name, self.name, failed
                )
            self._ended(state)
        else:
            if self._token is None:
                self._ended(state)
                return
            try:
                self.loop.call_soon_threadsafe(lambda: self._spawn(self._settle(published, state)))
            except RuntimeError:  # the loop is closed
                self._ended(state)

    async def _settle(self, published: Publication, state: RunState) -> None:
        """Wait for the broker's answer to the publication of the end."""
        try:
            await published
        except LeaseLost:
            state = RunState.LOST
        except TopicEnded:
            until = self.loop.time() + _SOON
            while self._hub._ending(self.name) is None and self.loop.time() < until:  # noqa: ASYNC110
                await asyncio.sleep(_PATIENCE)
            state = self._state_in_log(RunState.LOST)
        except HubError as failed:
            # Nothing renews its lease: the other processes will declare the run lost.
            logger.error("hub %r: run %r: its end was not published: %s", self._hub.name, self.name, failed)
        finally:
            while self._unsettled:  # of a run that failed or was stopped: their outcome no longer matters
                with suppress(HubError):
                    await self._unsettled.popleft()
            self._ended(state)

    def _ended(self, state: RunState) -> None:
        self.state = state
        self.finished.set_result(state)
        if self._token is not None:
            self._hub._release(lease_of(self.name), self._token)
        if (on_finish := self._options.on_finish) is None:
            return
        call = partial(self._hub._call, on_finish, self.run, self._events)
        try:
            if asyncio.get_running_loop() is self.loop:
                call()
                return
        except RuntimeError:
            pass
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(call)

    def _state_in_log(self, otherwise: RunState) -> RunState:
        """The run's state by the end in the log; ``otherwise`` if the log has no end of a run."""
        ended = self._hub._ending(self.name)
        return otherwise if ended is None or ended == "ended" else RunState(ended)

    def _give_up(self) -> None:
        if not self.finished.done() and not self._task.done():
            logger.warning(
                "hub %r: run %r was stopped, and its function has not returned yet; its watchers are told",
                self._hub.name,
                self.name,
            )
            self.end(RunState.STOPPED)

    # The task.

    async def _drive(self) -> None:
        state, error = RunState.DONE, None
        try:
            await self._publish_all()
        except (asyncio.CancelledError, HubClosed, TopicEnded, LeaseLost):
            state = RunState.STOPPED
        except Exception as raised:
            state, error = RunState.FAILED, raised
        try:
            await close_source(self._source)
        except (Exception, asyncio.CancelledError) as raised:
            logger.error(
                "hub %r: run %r: its function could not be closed", self._hub.name, self.name, exc_info=raised
            )
        if self._is_stopping:
            state = RunState.STOPPED
        if error is not None:
            self._log(error)
        self.end(state, error if state is RunState.FAILED else None)

    async def _publish_all(self) -> None:
        name, token, publish = self.name, self._token, self._hub._publish_part
        keeps = self._options.on_finish is not None
        count = 0
        # Without a coroutine for each event, which costs as much as publishing it.
        async for value in self._source:
            if self._is_stopping:
                return
            try:
                published = publish(name, value, self._room, token)
            except HubFull:
                published = await self._publish_later(value)
            if published is None:
                raise RunTooLarge(
                    f"run {name!r} yields more than max_bytes={self._options.max_bytes}; its last event was"
                    " not published"
                )
            self._room -= published[1]
            if keeps:
                self._events.append(value)
            if token is not None:
                await self._settle_some(published[0])
            count += 1
            if count % _BURST == 0:
                await asyncio.sleep(0)
        while self._unsettled:
            await self._unsettled.popleft()

    async def _publish_later(self, value: Any) -> tuple[Publication, int] | None:
        while True:
            await asyncio.sleep(_PATIENCE)
            try:
                return self._hub._publish_part(self.name, value, self._room, self._token)
            except HubFull:
                continue

    async def _settle_some(self, published: Publication) -> None:
        """An event that the broker did not accept would be a gap in the run, so the run fails."""
        self._unsettled.append(published)
        while self._unsettled and (len(self._unsettled) > _AHEAD or self._unsettled[0].done()):
            await self._unsettled.popleft()

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
        while not self.finished.done():
            await asyncio.sleep(_LOOK)
            if (
                self._hub._take_stop(self.name)
                or self._hub._ending(self.name) is not None
                or not self._hub._holds(lease_of(self.name), token)
            ):
                self.stop(self._hub.grace)
                return
