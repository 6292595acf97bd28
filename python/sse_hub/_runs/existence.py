"""Whether there is a run, in any process."""

from __future__ import annotations

import asyncio

from sse_hub._responses.streaming_hub import StreamingHub

__all__ = ["run_exists", "until_known"]

_LOOK = 0.02  # seconds between two checks of what the broker's stream has said
_SOON = 5.0  # seconds in which this process catches up with the stream


async def until_known(hub: StreamingHub, name: str) -> bool:
    """Whether this process follows a run of this name, once it has caught up with the stream."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SOON
    while (found := hub._is_followed(name)) is None and loop.time() < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)
    return bool(found)


async def run_exists(hub: StreamingHub, name: str) -> bool:
    """Whether there is a run of this name, in any process, or it has ended and is kept."""
    return await until_known(hub, name) or (hub.broker is not None and await hub._find_run(name))
