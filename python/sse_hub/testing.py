"""An event-stream client for tests, in process, and a clock that tests drive.

Test clients of HTTP libraries wait for the end of a response, which an event stream does not have. This one
reads events as they arrive::

    from sse_hub.testing import connect

    async def test_a_price_arrives():
        async with connect(app, "/events") as client:
            assert client.status_code == 200
            hub.publish("prices", {"eur": 1})
            event = await client.next()
            assert event.json() == {"eur": 1}

Behaviour that depends on time (heartbeats, ``stall_timeout``, ``max_age``, ``expires``, ``history_age``) is
tested without waiting, on a hub whose clock stands still until the test advances it::

    clock = Clock()
    hub = clock.hub(heartbeat=15)
    ...
    await clock.advance(15)

Everything here belongs to the event loop it is used on and is not thread-safe.
"""

from __future__ import annotations

from sse_hub._testing.client import Connecting, EventClient, connect
from sse_hub._testing.clock import Clock
from sse_hub._testing.event_parser import Event, EventParser
from sse_hub._testing.exchange import StreamEnded
from sse_hub._testing.lifespan import lifespan

__all__ = ["Clock", "Connecting", "Event", "EventClient", "EventParser", "StreamEnded", "connect", "lifespan"]
