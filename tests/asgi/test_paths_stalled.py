"""When a client counts as stalled: real sockets whose kernel buffers are small, on both paths.

A client that takes anything is alive, however little that is. One that takes nothing for ``stall_timeout`` is
cut, and learns of it.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from servers import HOST
from sse_hub import Hub
from waiting import until
from wire import Site, Stream, narrow_site, reset

STALL = 1.0  # seconds


@pytest.fixture(params=["portable", "httptools"])
def narrow(request: pytest.FixtureRequest) -> Iterator[Site]:
    with narrow_site(request.param) as site:
        yield site


def slow_hub(site: Site, stall_timeout: float = STALL) -> tuple[Hub, list[str]]:
    hub = site.hub(stall_timeout=stall_timeout, heartbeat=0.3, capacity=100_000, capacity_bytes=2**30)
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    return hub, reasons


def read_slowly(stream: Stream, seconds: float) -> int:
    """Read 1,000 bytes twenty times a second; how many that were until the end.

    The client's window opens by 6 KB at a time, so what it takes shows three times a second.
    """
    began, taken = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        data = stream.sock.recv(1000)
        if not data:
            break
        taken += len(data)
        time.sleep(0.05)
    return taken


def test_one_write_may_take_many_timeouts(narrow: Site) -> None:
    hub, reasons = slow_hub(narrow)
    with narrow.stream(hub, client={"receive_buffer": 4096}) as stream:
        hub.publish("t", "x" * 200_000)
        hub.publish("t", "waits behind it")
        assert read_slowly(stream, 6 * STALL) > 0
        assert (reasons, hub.count(), hub.stats()["stalled"]) == ([], 1, 0)


def test_what_is_left_at_the_end_may_take_many_timeouts(narrow: Site) -> None:
    hub, reasons = slow_hub(narrow)
    with narrow.stream(hub, client={"receive_buffer": 4096}) as stream:
        hub.publish("t", "x" * 100_000)
        hub.publish("t", "the last")
        hub.disconnect(id=hub.subscribers()[0].id)
        stream.received = b""
        taken = read_slowly(stream, 60)
        assert taken > 100_000
        until(lambda: reasons == ["kicked"])


def test_a_client_that_takes_nothing_learns_that_it_was_cut(narrow: Site) -> None:
    hub, reasons = slow_hub(narrow, stall_timeout=0.3)
    with narrow.stream(hub, client={"receive_buffer": 4096}) as stream:
        for _ in range(20):
            hub.publish("t", "x" * 20_000)
        until(lambda: reasons == ["stalled"])
        assert (hub.count(), hub.stats()["stalled"]) == (0, 1)
        stream.rest()
        assert stream.reset


@pytest.mark.parametrize("size", [200_000, 30_000])
def test_so_does_one_that_stalls_at_the_last_event(narrow: Site, size: int) -> None:
    """Nothing waits at the hub: the event was given to the server, which may have room for all of it."""
    hub = narrow.hub(stall_timeout=0.3, heartbeat=None)
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    with narrow.stream(hub, client={"receive_buffer": 4096}) as stream:
        hub.publish("t", "x" * size)
        until(lambda: reasons == ["stalled"])
        stream.rest()
        assert stream.reset


@pytest.mark.skipif(sys.platform != "linux", reason="has the kernel drop what the client is sent")
def test_a_client_that_vanished_before_its_head_arrived_is_noticed() -> None:
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    with narrow_site("portable") as site, socket.socket() as client:
        hub = site.hub(stall_timeout=0.3, heartbeat=None)
        site.app = hub.endpoint("t")
        client.connect((HOST, site.port))
        program = struct.pack("HP", 1, ctypes.addressof(drop_all))
        client.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: hub.stats()["stalled"] == 1)


def test_clients_that_stall_are_not_taken_for_ones_that_have_vanished() -> None:
    # Linux leaves the second question about a closed window open, 0.6 to 1.4 seconds after the last byte.
    # Each client stalls at another moment between two of the checks, which are 0.275 seconds apart.
    with narrow_site("httptools") as site:
        hub, reasons = slow_hub(site, stall_timeout=1.1)
        site.app = hub.endpoint(lambda request: request.query_params["topic"])
        with ExitStack() as stack:
            for topic in map(str, range(40)):
                stack.enter_context(site.raw(f"/?topic={topic}", receive_buffer=4096)).opened()
            for topic in map(str, range(40)):
                hub.publish(topic, "x" * 100_000)
                time.sleep(0.007)
            until(lambda: len(reasons) == 40)
            assert reasons == ["stalled"] * 40


def test_a_client_that_resets_during_a_long_replay_leaves_no_line_in_the_log(narrow: Site) -> None:
    hub = narrow.hub(history=20_000, history_bytes=2**30)
    first = hub.publish("t", 0).result()
    for n in range(1, 10_000):
        hub.publish("t", {"n": n, "fill": "x" * 100})
    narrow.app = hub.endpoint("t")
    for attempt in range(20):
        stream = narrow.raw(last_event_id=str(first))
        stream.sock.recv(10 * attempt + 1)
        reset(stream.sock)
    until(lambda: hub.count() == 0)
