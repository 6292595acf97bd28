"""Waiting for what has no event of its own to be waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait until it holds; how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "never happened"
        time.sleep(0.002)
    return time.monotonic() - began


async def until_async(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """The same on a loop, which goes on meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
