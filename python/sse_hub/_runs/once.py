"""Work that one process of a hub does for all, and that another takes over."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

from sse_hub._core import Publication
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub.exceptions import BrokerError, HubClosed, LeaseLost

__all__ = ["Produce", "run_once"]

Produce: TypeAlias = Callable[[Callable[..., Publication]], Awaitable[None]]

logger = logging.getLogger("sse_hub")

_AFTER_FAILURE = 1.0  # seconds after which a broker that did not answer is asked again


async def run_once(hub: StreamingHub, name: str, produce: Produce, closed: Callable[[], bool]) -> None:
    """Call ``produce`` while this process holds the lease of this name.

    ``closed`` says whether the hub was closed since: its next use would start it anew.
    """
    if hub.broker is None:
        await produce(hub.publish)
        return
    lease = f"once:{name}"
    waits = False
    while True:
        token = secrets.token_hex(16)
        try:
            try:
                await hub._await_lease(lease, token)
            except BrokerError as error:
                if not waits:
                    logger.warning("hub %r: %r waits for the broker: %s", hub.name, name, error)
                waits = True
                await asyncio.sleep(_AFTER_FAILURE)
                continue
            waits = False
            with suppress(LeaseLost):
                if await _produce(hub, lease, token, produce):
                    return
        finally:
            hub._release(lease, token)
        if closed():
            raise HubClosed(f"the hub was closed, and {name!r} has stopped here")
        logger.warning("hub %r: %r now belongs to another process: its lease ran out here", hub.name, name)


async def _produce(hub: StreamingHub, lease: str, token: str, produce: Produce) -> bool:
    """Whether ``produce`` returned; False when it was cancelled because the lease is no longer held."""

    def publish(*args: Any, **fields: Any) -> Publication:
        # A publication that is certain to be refused would also connect a hub that was closed again.
        if not hub._holds(lease, token):
            raise LeaseLost("this process does not hold the lease any more; nothing was published")
        return hub._publish_held(lease, token, *args, **fields)

    task = asyncio.ensure_future(produce(publish))
    lost = hub._lost(lease, token)
    try:
        await asyncio.wait([task, lost], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        if not lost.cancel():
            lost.exception()  # of a hub that is closed: retrieved, so that asyncio does not log it
        task.cancel()
        await asyncio.wait([task])
