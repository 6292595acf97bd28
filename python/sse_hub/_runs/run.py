"""An application's handle to a run."""

from __future__ import annotations

import asyncio
from typing import Unpack

from sse_hub._responses.options import FollowOptions
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.driver import RunDriver
from sse_hub._runs.response import RunResponse
from sse_hub._runs.states import RunFormat, RunState

__all__ = ["Run"]


class Run:
    """A run, as ``Hub.run`` returns it. Every method may be called from any thread or event loop.

    The run goes on when the object is dropped.
    """

    def __init__(self, hub: StreamingHub, driver: RunDriver) -> None:
        self._hub = hub
        self._driver = driver
        driver.ending.run = self

    @property
    def id(self) -> str:
        """The run's name, which is also its topic."""
        return self._driver.name

    @property
    def state(self) -> RunState:
        """The state of the run."""
        return self._driver.ending.state

    def response(self, *, format: RunFormat | None = None, **options: Unpack[FollowOptions]) -> RunResponse:
        """The response that streams the run, from its beginning or the client's id, like ``Hub.follow``."""
        return RunResponse(self._hub, self.id, format, **options)

    async def wait(self) -> RunState:
        """Wait until the run has ended. Cancelling the wait does not stop the run.

        Raises:
            HubClosed: the hub was closed, and another process drives the run.
        """
        return await asyncio.wrap_future(self._driver.ending.finished)

    async def stop(self) -> bool:
        """Stop the run: cancel its function where it waits, let its ``finally`` run, and tell the watchers.

        Watchers wait for that no longer than the hub's ``grace``. Returns False if the run had already ended.
        """
        driver = self._driver
        if driver.ending.state is not RunState.RUNNING:
            return False
        driver.stop_threadsafe(self._hub.grace)
        return await self.wait() is RunState.STOPPED

    def __repr__(self) -> str:
        return f"<Run {self.id!r}, {self.state.value}>"
