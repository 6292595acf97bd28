"""Whether there is a run, in any process, and waiting for what this process learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub.exceptions import BrokerError

__all__ = ["run_exists", "until_known", "until_shown"]

_SOON = 10.0  # seconds in which this process reaches the broker and learns of the runs that there are


async def until_shown(hub: StreamingHub, name: str, is_shown: Callable[[], bool]) -> None:
    """Wait until this process has learned something of a run, which only a change of the run can tell it.

    Raises:
        HubClosed: the hub has no connection to its broker.
    """
    while not is_shown():
        changed = hub._run_changed(name)
        if not is_shown():  # not since the look before
            await changed
        changed.cancel()


async def until_known(hub: StreamingHub, name: str) -> bool:
    """Whether this process follows a run of this name, once it knows what the broker's stream keeps.

    Raises:
        BrokerError: the broker has not said that in time, so there may be a run or not.
    """
    try:
        async with asyncio.timeout(_SOON):
            await until_shown(hub, name, lambda: hub._is_followed(name) is not None)
    except TimeoutError:
        raise BrokerError(
            f"hub {hub.name!r} has not reached its broker within {_SOON:g} s, and does not know whether"
            f" there is a run {name!r}"
        ) from None
    return hub._is_followed(name) is True


async def run_exists(hub: StreamingHub, name: str) -> bool:
    """Whether there is a run of this name, in any process, or it has ended and is kept."""
    return await until_known(hub, name) or (hub.broker is not None and await hub._find_run(name))
