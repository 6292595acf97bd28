"""The part of a hub that runs generators."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Unpack

from sse_hub._arguments import check_callback, check_text
from sse_hub._responses.options import FollowOptions
from sse_hub._responses.streaming_hub import StreamingHub, check_asyncio
from sse_hub._runs.driver import RunDriver
from sse_hub._runs.elsewhere import RunElsewhere
from sse_hub._runs.ending import lease_of
from sse_hub._runs.existence import run_exists, until_known, until_shown
from sse_hub._runs.once import Produce, run_once
from sse_hub._runs.options import ErrorText, OnFinish, RunOptions
from sse_hub._runs.registry import Runs
from sse_hub._runs.response import RunResponse
from sse_hub._runs.run import Run
from sse_hub._runs.source import open_source
from sse_hub._runs.states import RunFormat
from sse_hub.exceptions import HubClosed, LeaseLost, TopicEnded

__all__ = ["RunningHub"]

_MIB = 1024 * 1024
_SOON = 5.0  # seconds in which this process reads what it has written
_PAUSE = 0.02  # seconds after which a lease that another process had only for a moment is tried again


class RunningHub(StreamingHub):
    """The base of ``Hub``, whose constructor sets the attributes."""

    _runs: Runs

    async def run(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        keep: float = 300.0,
        idle: float | None = None,
        max_bytes: int = 8 * _MIB,
        on_finish: OnFinish | None = None,
        error: ErrorText | None = None,
        **kwargs: Any,
    ) -> Run:
        """Start a run: a task of the hub publishes what ``function(*args, **kwargs)`` yields.

        The run goes on without any watcher, and a slow watcher costs it nothing. Starting a run that is
        already running joins it; within ``keep`` after its end, the call returns the ended run. Call it on
        the event loop on which the function should run; the function sees the caller's context variables.

        Args:
            name: the run's name, which is also the topic that its events are published to. Nothing else
                should publish there.
            function: an async generator function; or a generator function, each step of which runs in a
                worker thread. What it yields means the same as in ``publish``: a value is JSON, a
                ``ServerSentEvent`` has a name or raw data.
            args: its arguments.
            keep: seconds after its end during which it can be followed; then its name is free.
            idle: seconds without a watcher after which it is stopped; None for never.
            max_bytes: how much it may yield, in bytes on the wire. Everything is kept until ``keep`` is
                over, in this process's memory, so a run that yields more fails.
            on_finish: a function, def or async, called with the run and the list of what it yielded when
                the run has ended, in any state. The process that drives the run calls it: no other one does
                if that dies.
            error: a function that takes the exception with which the run failed and returns what clients are
                told about it; None, or a result of None, tells them only that it failed. The log has the
                traceback.
            kwargs: more arguments of the function.

        Raises:
            TypeError: the function yields nothing, or an argument has a wrong type.
            ValueError: the name or an option breaks a rule.
            TopicEnded: ``Hub.end`` ended the topic, and its name is not free yet.
            HubClosed: the hub is closing.
            HubFull: publishers have run ``backlog_bytes`` ahead of the broker.
            BrokerError: the broker does not answer.
        """
        check_asyncio()
        check_text("name", name)
        options = RunOptions.checked(keep, idle, max_bytes, on_finish, error)
        runs = self._runs_here()
        if self.broker is not None:
            returned = asyncio.Event()
            opens = partial(open_source, function, args, kwargs)
            try:
                return await self._run_over_broker(name, options, opens, returned)
            finally:
                # With keep=0 its name is free at its end: the caller, which goes on now, watches it first.
                asyncio.get_running_loop().call_soon(returned.set)
        with runs.lock:
            known = runs.get(name)
            if known is not None and self._is_followed(name):
                return known
            source = open_source(function, args, kwargs)
            return self._start(RunDriver(self, name, source, options, self._begin_alone(name)))

    def _start(self, driver: RunDriver) -> Run:
        run = Run(self, driver)
        self._runs_here().add(run)
        driver.start()
        return run

    async def _run_over_broker(
        self,
        name: str,
        options: RunOptions,
        opens: Callable[[], AsyncIterator[Any]],
        returned: asyncio.Event,
    ) -> Run:
        """One process takes the lease of the run, and begins it; the others follow."""
        token = secrets.token_hex(16)
        closes = self._runs_here().closes
        while True:
            if self._runs_here().closes != closes:
                raise HubClosed(f"the hub was closed, and run {name!r} was not started")
            known = self._runs_here().get(name)
            # One that has ended is not the one of this name if that runs.
            if known is not None and (known.state == "running" or self._ending(name) is not None):
                return known
            # A process that has just begun may find the lease of a run free whose process died, and not know
            # yet that there was one.
            if await until_known(self, name):
                if self._ending(name) == "ended":
                    raise TopicEnded(f"topic {name!r} has ended, and it was no run's")
                elsewhere = RunElsewhere(self, name, self._runs_here())
                if not elsewhere.is_gone():
                    return elsewhere
                continue
            # A caller that is cancelled must not leave a run behind that has begun and that nothing drives.
            beginning = asyncio.ensure_future(self._begin_under_lease(name, token, options, opens, returned))
            self._callbacks.add(beginning)  # The loop holds tasks weakly.
            beginning.add_done_callback(self._callbacks.discard)
            run = await asyncio.shield(beginning)
            if run is None:
                # Another process has it, or had it, and this process has yet to follow that.
                if not await self._find_run(name):
                    await asyncio.sleep(_PAUSE)
                continue
            # From now on, a caller that asks this process for the run finds it.
            await self._until_followed(run)
            return run

    async def _until_followed(self, run: Run) -> None:
        """Wait until this process has read that the run began, if it reads that soon: a gap may have it."""

        def is_followed() -> bool:
            return run.state != "running" or self._is_followed(run.id) is True

        with suppress(HubClosed, TimeoutError):  # a hub that closes stops the run
            async with asyncio.timeout(_SOON):
                await until_shown(self, run.id, is_followed)

    async def _begin_under_lease(
        self,
        name: str,
        token: str,
        options: RunOptions,
        opens: Callable[[], AsyncIterator[Any]],
        returned: asyncio.Event,
    ) -> Run | None:
        """Begin a run if its lease is free and stays this process's, and if its topic has not ended."""
        run = None
        try:
            # A former holder may have begun the run, and died. Whoever holds the lease knows that.
            if await self._take_lease(lease_of(name), token) and not self._is_followed(name):
                driver = RunDriver(self, name, opens(), options, token, returned)
                await self._begin_run(name, options.keep, token)
                run = self._start(driver)
        except (TopicEnded, LeaseLost):
            pass
        finally:
            if run is None:
                self._release(lease_of(name), token)
        return run

    def follow(
        self, name: str, *, format: RunFormat | None = None, **options: Unpack[FollowOptions]
    ) -> RunResponse:
        """The response that streams a run: from its beginning, or from the client's id.

        It is 204, which stops a browser's ``EventSource``, when there is no run of this name or the client
        has all of it; for AG-UI's clients, which need a body, an empty stream. A slow client is not
        disconnected for being slow. The stream carries the run's own events and what is sent to this client
        (``send``); ``broadcast`` does not reach it. The options are those of ``FollowOptions``. The hub's
        ``compress`` is for topics: only ``compress=True`` has this body compressed.

        Args:
            name: the run's name.
            format: the protocol that expresses the end of the stream. None is for ``EventSource``: control
                events, the last of which is ``stream-end`` with the run's state. ``"ai-sdk"`` (UI message
                stream v1), ``"openai"`` and ``"ag-ui"`` have no control events, and whatever ends, fails or
                stops a stream in that protocol.
        """
        return RunResponse(self, name, format, **options)

    async def stop(self, name: str) -> bool:
        """Stop a run: cancel its function where it waits, let its ``finally`` run, and tell the watchers.

        Returns False when no run of this name is running.
        """
        run = self._runs_here().get(check_text("name", name))
        if run is not None and run.state == "running":
            return await run.stop()
        if self.broker is None or not await run_exists(self, name):
            return False
        return await RunElsewhere(self, name, self._runs_here()).stop()

    async def once(self, name: str, produce: Produce) -> None:
        """Run ``produce`` in one process of the hub: a ticker, a poller, what must not be published twice.

        Await it in every process, as a task of the app's lifespan. With a broker, one of them holds a lease
        and runs ``produce``; another takes over within 10 seconds when that process dies, and at once when it
        is cancelled there or returns. A process that was paused for longer than its lease publishes nothing
        more: its publications are refused, ``produce`` is cancelled, and it waits for its turn again. Without
        a broker ``produce`` simply runs.

        Args:
            name: the lease's name.
            produce: an async function that takes ``publish``, which is ``Hub.publish`` under the lease. What
                it raises is raised here.

        Raises:
            HubClosed: the hub was closed; ``produce`` is cancelled then.
        """
        check_text("name", name)
        check_callback("once", produce, "publish", kind="an async function")
        runs = self._runs_here()
        closes = runs.closes
        await run_once(self, name, produce, lambda: runs.closes != closes)

    # The core calls this by its name, without a broker.
    def _topic_ended(self, topic: str) -> None:
        if (run := self._runs_here().get(topic)) is not None:
            run._driver.topic_ended()

    def stats(self) -> dict[str, Any]:
        """Current counters and sizes, by name; docs/operations.md explains each."""
        stats = super().stats()
        lost = stats.pop("runs_lost")
        return {**stats, "runs": self._runs_here().by_state(lost)}

    def _runs_here(self) -> Runs:
        """The registry. A forked child begins with none of its parent's runs."""
        if self._runs.process != os.getpid():
            self._runs = Runs()
        return self._runs

    def _before_stop(self, then: Callable[[], None], /) -> None:
        """Stop the runs of this loop, so that their watchers learn of it; then call ``then``."""
        self._runs_here().stop_here(self.grace / 2, then)
