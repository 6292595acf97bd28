"""The runs of a hub in this process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from sse_hub._runs.driver import RunDriver
from sse_hub._runs.run import Run
from sse_hub._runs.states import RunState
from sse_hub._stopping.serving import on_asyncio

__all__ = ["Runs"]


_EARLY = 0.05  # seconds after which an ended run is looked at again


class Runs:
    """The runs of one hub, by name: those that run, and those that have ended and are kept."""

    def __init__(self) -> None:
        # Reentrant: with asyncio's eager tasks a run begins within its start, and may start another one.
        self.lock = threading.RLock()
        self.process = os.getpid()
        self.closes = 0  # how often the hub was closed
        self._by_name: dict[str, Run] = {}
        self._at_work: set[RunDriver] = set()  # those that are not over
        self._ended: Counter[RunState] = Counter()

    def get(self, name: str) -> Run | None:
        """The run of this name."""
        return self._by_name.get(name)

    def add(self, run: Run) -> None:
        """Hold a run until it has ended and its ``keep`` is over."""
        self._by_name[run.id] = run
        driver = run._driver
        self._at_work.add(driver)
        driver.ending.over.add_done_callback(lambda _: self._at_work.discard(driver))
        closes = self.closes

        def forget() -> None:
            # Some loops' timers are a little early, and while the name is not free a start returns this run.
            if self.closes == closes and run._hub._ending(run.id) is not None and self.get(run.id) is run:
                driver.loop.call_later(max(_EARLY, driver.keep / 10), forget)
            else:
                self._forget(run)

        def ended(finished: Future[RunState]) -> None:
            with self.lock:
                self._ended[finished.result()] += 1
            try:
                driver.loop.call_soon_threadsafe(driver.loop.call_later, driver.keep, forget)
            except RuntimeError:  # its loop is closed
                self._forget(run)

        driver.ending.finished.add_done_callback(ended)

    def _forget(self, run: Run) -> None:
        with self.lock:  # a run of this name may start on another thread
            if self._by_name.get(run.id) is run:
                del self._by_name[run.id]

    def running(self) -> list[RunDriver]:
        """The runs that have not ended."""
        return [driver for driver in list(self._at_work) if not driver.ending.finished.done()]

    def by_state(self, lost: int) -> dict[str, int]:
        """How many run, and how many have ended in each of the other states.

        ``lost`` is counted by the process that tells the watchers: the one that drove the run is gone, or was
        paused.
        """
        counts = {**self._ended, RunState.RUNNING: len(self.running()), RunState.LOST: lost}
        return {state.value: counts.get(state, 0) for state in RunState}

    def stop_here(self, patience: float, then: Callable[[], None]) -> None:
        """Stop the runs of the running loop, and call ``then`` when they have ended."""
        loop = asyncio.get_running_loop()
        waiting = {driver for driver in self.running() if driver.loop is loop}
        if not waiting:
            then()
            return

        def ended(driver: RunDriver) -> None:
            waiting.discard(driver)
            if not waiting:
                then()

        for driver in list(waiting):
            soon = partial(loop.call_soon_threadsafe, ended, driver)
            driver.ending.finished.add_done_callback(lambda _, soon=soon: soon())  # type: ignore[misc]
            driver.stop(patience)

    async def stop_all(self, grace: float) -> None:
        """Stop all runs, and wait until their watchers have been told and each ``on_finish`` has returned.

        Watchers are told after half of ``grace`` at the latest. After three quarters nothing is waited for
        any longer: the last one is for the hub's streams.
        """
        deadline = time.monotonic() + 3 / 4 * grace
        drivers = self._stop_all(grace / 2)
        await _wait([driver.ending.finished for driver in drivers], grace / 2)
        for driver in drivers:
            driver.give_up()
        await _wait([driver.ending.over for driver in self._finishing()], deadline - time.monotonic())

    def stop_all_here(self, grace: float, *, on_a_loop: bool) -> None:
        """The same for sync code. On a loop's own thread, which this call blocks, the runs end at once."""
        deadline = time.monotonic() + 3 / 4 * grace
        drivers = self._stop_all(grace / 2)
        if on_a_loop:
            for driver in drivers:
                driver.ending.begin(RunState.STOPPED)
            return
        wait([driver.ending.finished for driver in drivers], grace / 2)
        for driver in drivers:
            driver.give_up()
        wait([driver.ending.over for driver in self._finishing()], max(0.0, deadline - time.monotonic()))

    def _finishing(self) -> list[RunDriver]:
        """The runs that are not over, but for one whose ``on_finish`` asks for this."""
        own = asyncio.current_task() if on_asyncio() else None
        return [driver for driver in list(self._at_work) if own is None or driver.ending.finishing is not own]

    def _stop_all(self, patience: float) -> list[RunDriver]:
        self.closes += 1
        drivers = self.running()
        for driver in drivers:
            driver.stop_threadsafe(patience)
        return drivers


async def _wait(futures: list[Future[Any]], seconds: float) -> None:
    if futures and seconds > 0:
        await asyncio.wait([asyncio.wrap_future(future) for future in futures], timeout=seconds)
