"""Whether there is a run, in any process."""

from __future__ import annotations

import asyncio

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.driver import lease_of

__all__ = ["is_there"]

_LOOK = 0.02  # seconds between two checks of what the broker's stream has said
_SOON = 5.0  # seconds in which this process catches up with the stream


async def is_there(hub: StreamingHub, name: str) -> bool:
    """Whether there is a run of this name, in any process, or it has ended and is kept."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SOON
    while (found := hub._is_followed(name)) is None and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)
    if found or hub.broker is None or not await hub._is_leased(lease_of(name)):
        return bool(found)
    # It has just begun; or its beginning is no longer in the stream, and it is followed from here on.
    while not hub._is_followed(name) and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)
    return True
