"""Runs of other processes, followed from this one."""

from __future__ import annotations

import asyncio

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.registry import Runs
from sse_hub._runs.run import Run
from sse_hub._runs.states import RunState
from sse_hub.exceptions import HubClosed

__all__ = ["RunElsewhere"]

_LOOK = 0.02  # seconds between two checks of what the broker's stream has said


class RunElsewhere(Run):
    """A run that another process drives, or drove."""

    def __init__(self, hub: StreamingHub, name: str, runs: Runs) -> None:
        self._hub = hub
        self._name = name
        self._last = RunState.RUNNING
        self._runs, self._closes = runs, runs.closes

    @property
    def id(self) -> str:
        return self._name

    @property
    def state(self) -> RunState:
        if self._last is RunState.RUNNING and (ended := self._hub._ending(self._name)) is not None:
            self._last = RunState.STOPPED if ended == "ended" else RunState(ended)
        return self._last

    async def wait(self) -> RunState:
        while self.state is RunState.RUNNING:
            if self._runs.closes != self._closes:
                raise HubClosed(f"the hub was closed, and run {self._name!r} goes on in another process")
            await asyncio.sleep(_LOOK)
        return self.state

    async def stop(self) -> bool:
        if self.state is not RunState.RUNNING:
            return False
        await self._hub._ask_to_stop(self._name)
        return await self.wait() is RunState.STOPPED
