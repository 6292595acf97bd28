"""Sends messages: within a time limit, or to a WebSocket that is denied."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Send

from sse_hub._servers import abort

__all__ = ["SendTimeoutError", "abort_before_end", "send_within", "sends_denial"]

# Turns of the loop in which a server notices an abort: with TLS one more than without.
_TURNS = 3


class SendTimeoutError(TimeoutError):
    """A client did not take an event or a ping within the response's ``send_timeout``."""


async def abort_before_end(receive: Receive) -> None:
    """Abort the connection of a response that returns without its end.

    A server that has not noticed the abort by then would log an incomplete response.
    """
    if abort(receive):
        for _ in range(_TURNS):
            await asyncio.sleep(0)


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


def sends_denial(send: Send) -> Send:
    """A ``send`` for a response that denies a WebSocket (ASGI's "Websocket Denial Response").

    Starlette has a method for that, which is private, and newer than the oldest Starlette that is supported.
    """

    async def deny(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return deny
