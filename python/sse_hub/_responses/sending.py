"""Sends a message within a time limit."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Send

__all__ = ["SendTimeoutError", "send_within"]


class SendTimeoutError(TimeoutError):
    """A client did not take an event or a ping within the response's ``send_timeout``."""


async def send_within(seconds: float | None, send: Send, message: Message) -> None:
    """Send a message; SendTimeoutError when that takes longer than ``seconds``."""
    if seconds is None:
        await send(message)
        return
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await send(message)
    except TimeoutError:
        if not limit.expired():
            raise
    if limit.expired():
        raise SendTimeoutError
