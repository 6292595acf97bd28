"""A clock that stands still until a test advances it."""

from __future__ import annotations

from typing import Any

from sse_hub._arguments import check_seconds
from sse_hub._testing.turns import run_until_idle
from sse_hub.hub import Hub

__all__ = ["Clock"]

# The clock's resolution in seconds.
_TICK = 1e-9


class Clock:
    """A clock that stands still until a test advances it, and the hubs that run on it."""

    def __init__(self) -> None:
        self._hubs: list[Hub] = []

    def hub(self, **options: Any) -> Hub:
        """A hub on this clock. The options are those of :class:`sse_hub.Hub`."""
        hub = Hub(_manual_clock=True, **options)
        self._hubs.append(hub)
        return hub

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and let everything that becomes due on the way happen at its own time.

        When it returns, heartbeats have been passed to the ASGI server (or the test client), and streams
        whose time was over have ended, as far as they run on this event loop.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if check_seconds("seconds", seconds) < 0:
            raise ValueError(f"seconds must not be negative, not {seconds}")
        await run_until_idle(sum(hub.count() for hub in self._hubs))
        for hub in self._hubs:
            await self._advance(hub, seconds)

    @staticmethod
    async def _advance(hub: Hub, seconds: float) -> None:
        while True:
            due = hub._next_due()
            # What is overdue after all has settled belongs to another event loop, or to one that is closed.
            step = min(seconds, due) if due else seconds
            step = max(step, _TICK)
            hub._advance(step)
            await run_until_idle(hub.count())
            seconds -= step
            if seconds < _TICK:
                return
