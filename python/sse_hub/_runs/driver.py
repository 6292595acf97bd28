"""What drives one run: a task of the hub that publishes what the run's generator yields, and then the end.

::

    running --the generator returns--> done
       |-- raises, or yields more than max_bytes --> failed
       '-- stop, idle, the hub or the server closes --> stopped

No watcher drives it: watchers are subscribers of its topic, which keeps everything until it is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.source import close_source
from sse_hub._runs.states import RunState
from sse_hub.exceptions import HubClosed, HubFull, RunTooLarge, TopicEnded

__all__ = ["ErrorText", "OnFinish", "RunDriver", "RunOptions"]

logger = logging.getLogger("sse_hub")

OnFinish: TypeAlias = Callable[..., Awaitable[None] | None]
ErrorText: TypeAlias = Callable[[Exception], str | None]

_PATIENCE = 0.01  # seconds between two attempts to publish while delivery is behind
_BURST = 32  # events after which the loop's other tasks get a turn, however fast the generator is


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
        """The options, or an exception that names the one that breaks a rule."""
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
    """One run. Every method is called on the loop that it was started on, but where it says otherwise."""

    def __init__(
        self, hub: StreamingHub, name: str, source: AsyncIterator[Any], options: RunOptions, run: Any
    ) -> None:
        self.name = name
        self.keep = options.keep
        self.loop = asyncio.get_running_loop()
        self.state = RunState.RUNNING
        self.finished: Future[RunState] = Future()
        self.finished.set_running_or_notify_cancel()  # nobody who waits can cancel it for the others
        self._hub = hub
        self._source = source
        self._options = options
        self._run = run
        self._room = options.max_bytes
        self._events: list[Any] | None = [] if options.on_finish is not None else None
        self._is_stopping = False
        self._timers: list[asyncio.TimerHandle] = []
        self._watched = self.loop.time()

    def start(self) -> None:
        """Begin, with the context variables of the caller."""
        self._task = self.loop.create_task(self._drive(), context=copy_context())
        self._task.add_done_callback(self._driven)
        if self._options.idle is not None:
            self._look_for_watchers()

    def stop(self, patience: float) -> None:
        """Cancel the generator where it waits. Watchers are told once it has closed, or after a while."""
        if self.state is not RunState.RUNNING or self._is_stopping:
            return
        self._is_stopping = True
        self._task.cancel()
        self._timers.append(self.loop.call_later(patience, self._give_up))

    def stop_threadsafe(self, patience: float) -> None:
        """The same from any thread. A run whose loop is closed ends at once."""
        try:
            self.loop.call_soon_threadsafe(self.stop, patience)
        except RuntimeError:
            self.end(RunState.STOPPED)

    def end(self, state: RunState, error: Exception | None = None) -> None:
        """Tell the watchers, once. Any thread."""
        if self.finished.done():
            return
        try:
            self._hub._end_run(self.name, self._options.keep, state, self._text(error), None)
        except TopicEnded:
            ended = self._hub._ending(self.name)
            state = RunState.STOPPED if ended in (None, "ended") else RunState(ended)
        except HubClosed:
            pass  # its watchers were told that
        self.state = state
        self.finished.set_result(state)

    def _give_up(self) -> None:
        if not self.finished.done():
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
        except (asyncio.CancelledError, HubClosed, TopicEnded):
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
        count = 0
        async for value in self._source:
            if self._is_stopping:
                return
            await self._publish(value)
            count += 1
            if count % _BURST == 0:
                await asyncio.sleep(0)

    async def _publish(self, value: Any) -> None:
        while True:
            try:
                published = self._hub._publish_part(self.name, value, self._room, None)
                break
            except HubFull:
                await asyncio.sleep(_PATIENCE)
        if published is None:
            raise RunTooLarge(
                f"run {self.name!r} yields more than max_bytes={self._options.max_bytes}; its last event was"
                " not published"
            )
        self._room -= published[1]
        if self._events is not None:
            self._events.append(value)

    def _driven(self, task: asyncio.Task[None]) -> None:
        for timer in self._timers:
            timer.cancel()
        self.end(RunState.STOPPED)  # one that was cancelled before its first step
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("hub %r: run %r: its end failed", self._hub.name, self.name, exc_info=error)
        if (on_finish := self._options.on_finish) is not None:
            self._hub._call(on_finish, self._run, self._events)

    def _log(self, error: Exception) -> None:
        trace = None if isinstance(error, RunTooLarge) else error
        logger.error("hub %r: run %r failed: %s", self._hub.name, self.name, error, exc_info=trace)

    def _text(self, error: Exception | None) -> str | None:
        """What clients are told of a failure: only what the application says."""
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

    # Without watchers.

    def _look_for_watchers(self) -> None:
        idle = self._options.idle
        if idle is None or self.finished.done() or self._is_stopping:
            return
        now = self.loop.time()
        if self._hub.count(self.name):
            self._watched = now
        elif now - self._watched >= idle:
            logger.info(
                "hub %r: run %r is stopped: nobody has watched it for %s s", self._hub.name, self.name, idle
            )
            self.stop(self._hub.grace)
            return
        self._timers = [self.loop.call_later(min(idle / 4, 1.0), self._look_for_watchers)]
