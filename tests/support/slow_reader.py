"""A client in process that stops reading."""

from __future__ import annotations

from sse_hub import Hub
from sse_hub.testing import Clock, EventClient

__all__ = ["stop_reading"]


async def stop_reading(clock: Clock, hub: Hub, client: EventClient) -> None:
    """The client of topic ``t`` stops in the middle of a write, long enough to be known as stuck."""
    client.pause()
    hub.publish("t", "taken")
    await clock.advance(0)
    for n in range(10):
        hub.publish("other", n)
        await clock.advance(0.01)
