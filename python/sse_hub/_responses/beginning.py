"""Takes the connection of a stream whose subscription comes before its head."""

from __future__ import annotations

from functools import partial

from starlette.types import Message, Receive, Send

from sse_hub._core import Subscription
from sse_hub._ends import EndKind
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.taking import take_socket
from sse_hub._responses.disconnect import DisconnectWatch

__all__ = ["take_for"]


async def take_for(
    subscription: Subscription,
    attempt: Attempt[int],
    receive: Receive,
    send: Send,
    start: Message,
    *,
    gzip: bool,
) -> int | None:
    """The same as ``take_socket``; the subscription ends if its client leaves while the head is held back."""
    watch = DisconnectWatch(receive, partial(subscription._end, EndKind.CLIENT))
    try:
        # Not before the connection stays: to take it tells `receive` that the client left.
        return await take_socket(attempt, send, start, gzip=gzip, late=watch.start)
    finally:
        watch.close()
