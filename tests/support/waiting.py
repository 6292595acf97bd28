"""How long tests wait, and how they hold what was measured against what is promised.

A machine that others use too is now and then ten times slower than an idle one, or stands still for a moment.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

# The longest any single step of a test may take, in seconds. No test waits for it to pass.
PATIENCE = 60.0

# `make test-crowds` sets it, on a machine that has nothing else to do.
EXACT = os.environ.get("SSE_HUB_CROWDS") == "full"


def promised(seconds: float) -> float:
    """The limit of what is promised to take at most so long: five times that, unless exact."""
    return seconds if EXACT else 5 * seconds


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait until it holds, which has no event of its own to be waited for; how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "never happened"
        time.sleep(0.002)
    return time.monotonic() - began


async def until_async(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """The same on a loop, which goes on meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
