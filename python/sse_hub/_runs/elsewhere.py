"""Runs of other processes, followed from this one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.existence import until_shown
from sse_hub._runs.registry import Runs
from sse_hub._runs.run import Run
from sse_hub._runs.states import RunState
from sse_hub.exceptions import HubClosed, HubError, TopicEnded

__all__ = ["RunElsewhere"]

_AGAIN = 5.0  # seconds after which a stop is requested again: the run's process may have missed it in a gap


class RunElsewhere(Run):
    """A run that another process drives, or drove."""

    def __init__(self, hub: StreamingHub, name: str, runs: Runs) -> None:
        self._hub = hub
        self._name = name
        self._last = RunState.RUNNING
        self._end = hub._watch_end(name)  # first, so that no end is missed
        self._runs, self._closes = runs, runs.closes

    @property
    def id(self) -> str:
        return self._name

    @property
    def state(self) -> RunState:
        if self._last is RunState.RUNNING:
            # Its name may be free by now, or that of another run.
            ended = self._end() or self._hub._ending(self._name)
            if ended is not None:
                self._last = RunState.STOPPED if ended == "ended" else RunState(ended)
        return self._last

    def is_gone(self) -> bool:
        """Whether it had ended, and its name was free, before this object was made."""
        return self.state is RunState.RUNNING and self._hub._is_followed(self._name) is False

    async def wait(self) -> RunState:
        def is_decided() -> bool:
            return self.state is not RunState.RUNNING or self._runs.closes != self._closes

        with suppress(HubClosed):
            await until_shown(self._hub, self._name, is_decided)
        if self.state is RunState.RUNNING:
            raise HubClosed(f"the hub was closed, and run {self._name!r} goes on in another process")
        return self.state

    async def stop(self) -> bool:
        if self.state is not RunState.RUNNING or self.is_gone():
            return False
        try:
            await self._hub._ask_to_stop(self._name)
        except TopicEnded:  # by the log, which this process has yet to read up to there
            return False
        while True:
            try:
                async with asyncio.timeout(_AGAIN):
                    return await self.wait() is RunState.STOPPED
            except TimeoutError:
                with suppress(HubError):  # it has just ended, or the broker is away
                    await self._hub._ask_to_stop(self._name)
