"""Thousands of handed-off streams: how they end, what they leave behind, how fast they are gone.

``make test-crowds`` runs these with the numbers that are promised; otherwise they are smaller.
"""

from __future__ import annotations

import re
import socket
import sys
import time

import pytest
from crowd import GRACE, Crowd, ask, crowd_app, many_descriptors
from handoff_serving import body_of
from servers import run
from sse_hub._event_parser import EventParser

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs epoll, /proc and many addresses")


def numbers(response: bytes) -> list[int]:
    """Of the events in a response that has to be whole."""
    parser = EventParser("")
    parser.feed(body_of(response))
    events = [event for event in parser.events if event.event == "message"]
    return [event.json()["n"] for event in events]


def test_a_server_with_5000_streams_stops() -> None:
    with many_descriptors(5000), run(crowd_app()) as server, Crowd(server.port) as crowd:
        readers = crowd.come(4750, "/events")
        late = crowd.come(50, "/events?topics=t,flood", receive_buffer=4096)
        stalled = crowd.come(200, "/events?topics=t,flood", receive_buffer=4096)
        # More than the kernel keeps for one that reads nothing, less than what cuts it.
        ask(server.port, "/publish?topic=flood&n=100&size=4000")
        stats = ask(server.port, "/publish?topic=t&n=20")
        assert stats["subscribers"] == stats["handed_off"] == 5000
        began = time.monotonic()
        server.terminate()
        for visitor in late:
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        crowd.read([*readers, *late], lambda visitor: visitor.complete)
        read = time.monotonic() - began
        assert server.wait() in (0, -15)
        took = time.monotonic() - began
        print(f"all was read after {read:.2f} s, the server ended after {took:.2f} s")
        assert took < 2 + GRACE
        for visitor in readers:
            assert numbers(visitor.received) == [*range(20)]
        for visitor in late:
            assert numbers(visitor.received) == [*range(100), *range(20)]
        crowd.read(stalled, lambda visitor: visitor.ended)
        assert not any(visitor.complete for visitor in stalled)
        assert "lifespan ended" in server.output
        assert not re.search(r"Traceback|ERROR|Exception|Warning|was never", server.output), server.output
