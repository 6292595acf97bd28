"""Runs of other processes, followed from this one."""

from __future__ import annotations

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.registry import Runs
from sse_hub._runs.run import Run
from sse_hub._runs.states import RunState
from sse_hub.exceptions import HubClosed, TopicEnded

__all__ = ["RunElsewhere"]


class RunElsewhere(Run):
    """A run that another process drives, or drove."""

    def __init__(self, hub: StreamingHub, name: str, runs: Runs) -> None:
        self._hub = hub
        self._name = name
        self._last = RunState.RUNNING
        self._is_asked = False  # to stop: the log has that, before the run's end
        self._runs, self._closes = runs, runs.closes

    @property
    def id(self) -> str:
        return self._name

    @property
    def state(self) -> RunState:
        if self._last is RunState.RUNNING:
            self._note(self._hub._ending(self._name))
        if self._last is RunState.RUNNING and self._is_asked and self._is_gone():
            self._last = RunState.STOPPED
        return self._last

    def _is_gone(self) -> bool:
        """Whether it has ended, and its name is free already."""
        return self._runs.closes == self._closes and self._hub._is_followed(self._name) is False

    def _note(self, ended: str | None) -> None:
        if ended is not None:
            self._last = RunState.STOPPED if ended == "ended" else RunState(ended)

    async def wait(self) -> RunState:
        while self.state is RunState.RUNNING:
            if self._runs.closes != self._closes:
                raise self._closed()
            changed = self._hub._run_changed(self._name)
            if self.state is not RunState.RUNNING:  # since the look before
                changed.cancel()
                break
            try:
                self._note(await changed)  # its name may be free by now
            except HubClosed:
                raise self._closed() from None
        return self.state

    def _closed(self) -> HubClosed:
        return HubClosed(f"the hub was closed, and run {self._name!r} goes on in another process")

    async def stop(self) -> bool:
        if self.state is not RunState.RUNNING:
            return False
        try:
            await self._hub._ask_to_stop(self._name)
        except TopicEnded:  # by the log, which this process has yet to read up to there
            return False
        self._is_asked = True
        return await self.wait() is RunState.STOPPED
