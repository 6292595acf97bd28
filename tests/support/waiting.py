"""How long tests wait, and how they compare a measured time with a promised one.

A machine that others use too is sometimes ten times slower than an idle one, or stands still for a moment.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

# Seconds that any single step of a test may take at most. No test waits until they have passed.
PATIENCE = 60.0

# `make test-crowds` sets this variable, on a machine with nothing else to do.
EXACT = os.environ.get("SSE_HUB_CROWDS") == "full"


def promised(seconds: float) -> float:
    """The limit for a step that is promised to take at most ``seconds``: five times as long, unless exact."""
    return seconds if EXACT else 5 * seconds


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> float:
    """Wait for a condition that no event announces; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "never happened"
        time.sleep(0.002)
    return time.monotonic() - began


def eventually(look: Callable[[], Any], expected: Any, seconds: float = PATIENCE) -> None:
    """Wait until ``look`` returns ``expected``: another process learns of a change a little later."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"stays {seen}, not {expected}"
        time.sleep(0.02)


async def until_async(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """The same without blocking the event loop."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
