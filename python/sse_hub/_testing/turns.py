"""Turns of the event loop, for tests that wait for what is due, not for an amount of time."""

from __future__ import annotations

import asyncio

__all__ = ["run_until_idle"]

# Turns of the event loop after which what was due has happened, through several middlewares too.
_TURNS = 30


async def run_until_idle(subscribers: int = 0) -> None:
    """Let the event loop run what is ready, and what that makes ready."""
    # A hub resumes 128 clients in a turn.
    crowds = subscribers // 64
    for _ in range(_TURNS + crowds):
        await asyncio.sleep(0)
