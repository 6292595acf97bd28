"""How a run ends: the end in the log, the broker's answer to it, and ``on_finish``."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from sse_hub._core import Publication
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.existence import until_shown
from sse_hub._runs.options import RunOptions
from sse_hub._runs.publishing import PATIENCE, RunPublisher
from sse_hub._runs.states import RunState
from sse_hub.exceptions import HubClosed, HubError, HubFull, LeaseLost, TopicEnded

__all__ = ["RunEnding", "lease_of"]

logger = logging.getLogger("sse_hub")

_SOON = 5.0  # seconds in which this process catches up with the broker


def lease_of(name: str) -> str:
    """The name of a run's lease. The core uses the same name."""
    return f"run:{name}"


class RunEnding:
    """The end of one run. ``spawn`` makes a task of the run's loop; ``mark`` as for its driver."""

    run: Any  # passed to `on_finish`

    def __init__(
        self,
        hub: StreamingHub,
        name: str,
        options: RunOptions,
        mark: str | int,
        publisher: RunPublisher,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._hub = hub
        self._name = name
        self._options = options
        self._mark = mark
        self._token = mark if isinstance(mark, str) else None
        self._publisher = publisher
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._state = RunState.RUNNING
        self._is_begun = threading.Lock()
        self._end_in_log: Callable[[], str | None] = lambda: None
        self.finished: Future[RunState] = Future()
        self.finished.set_running_or_notify_cancel()  # no waiter can cancel it for the others
        self.over: Future[None] = Future()  # once it has ended and `on_finish` has returned
        self.over.set_running_or_notify_cancel()
        self.finishing: asyncio.Future[None] | None = None  # an `on_finish` that goes on

    def watch(self) -> None:
        """Note the end of this run from now on, also if another process writes it."""
        self._end_in_log = self._hub._watch_end(self._name)

    @property
    def state(self) -> RunState:
        """The state by the log: watchers may learn of the end before the broker answers this process."""
        if self._state is RunState.RUNNING:
            return self._state_in_log(RunState.RUNNING)
        return self._state

    def begin(self, state: RunState, error: Exception | None = None) -> None:
        """Tell the watchers, once. May be called from any thread."""
        if self._is_begun.acquire(blocking=False):
            self._publish(state, self._text(error))

    def _text(self, error: Exception | None) -> str | None:
        """The text about a failure for clients: only what the application returns."""
        if error is None or self._options.error is None:
            return None
        try:
            text = self._options.error(error)
            if text is not None and not isinstance(text, str):
                raise TypeError(f"error= returns a str or None, not {type(text).__name__}")
        except Exception:
            logger.exception("hub %r: run %r: error= failed", self._hub.name, self._name)
            return None
        return text

    def _publish(self, state: RunState, text: str | None) -> None:
        if self._end_in_log() is not None:  # and the name may be free, or that of another run
            self._ended(self._state_in_log(state))
            return
        try:
            published = self._hub._end_run(self._name, self._options.keep, state, text, self._mark)
        except TopicEnded:
            state = self._state_in_log(state)
        except HubFull:
            if self.on_loop(lambda: self._loop.call_later(PATIENCE, self._publish_again, state, text)):
                return
        except HubError as failed:  # if the hub has closed, its watchers were told that
            if not isinstance(failed, HubClosed):
                self._log_unpublished(failed)
        else:
            if self._token is not None and self.on_loop(lambda: self._spawn(self._settle(published, state))):
                return
        self._ended(state)

    def _publish_again(self, state: RunState, text: str | None) -> None:
        """Try again, unless others declare the run lost, or the hub was closed: this would open it again."""
        if self._token is not None and not self._hub._holds(lease_of(self._name), self._token):
            self._ended(self._state_in_log(RunState.LOST))
        else:
            self._publish(state, text)

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
            self._log_unpublished(failed)
        finally:
            await self._publisher.settle()
            self._ended(state)

    def _log_unpublished(self, failed: HubError) -> None:
        logger.error("hub %r: run %r: its end was not published: %s", self._hub.name, self._name, failed)

    async def _until_read(self) -> None:
        """Wait until this process has read the end from the log: the next run of this name is another one."""
        with suppress(HubClosed, TimeoutError):
            async with asyncio.timeout(_SOON):
                await until_shown(self._hub, self._name, self.is_read)

    def is_read(self) -> bool:
        """Whether this process has read the end of the run from the log, whoever has written it."""
        return self._end_in_log() is not None or self._hub._ending(self._name) is not None

    def _state_in_log(self, otherwise: RunState) -> RunState:
        """The run's state by the end in the log; ``otherwise`` if the log has no end of a run.

        Without a broker, only this run writes its state.
        """
        ended = None if self._token is None else self._end_in_log() or self._hub._ending(self._name)
        return otherwise if ended is None or ended == "ended" else RunState(ended)

    def _ended(self, state: RunState) -> None:
        self._state = state
        self.finished.set_result(state)
        if self._token is not None:
            self._hub._release(lease_of(self._name), self._token)
        if self._options.on_finish is None or not self.on_loop(self._call_on_finish):
            self.over.set_result(None)

    def _call_on_finish(self) -> None:
        assert self._options.on_finish is not None
        self.finishing = self._hub._call(self._options.on_finish, self.run, self._publisher.events)
        if self.finishing is None:
            self.over.set_result(None)
        else:
            self.finishing.add_done_callback(lambda _: self.over.set_result(None))

    def on_loop(self, then: Callable[[], object]) -> bool:
        """Call ``then`` on the run's loop; at once, if that is the running one. False if it is closed."""
        if asyncio._get_running_loop() is self._loop:
            then()
            return True
        try:
            self._loop.call_soon_threadsafe(then)
        except RuntimeError:
            return False
        return True
