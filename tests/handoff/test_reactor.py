"""Streams that were handed off: what only a thread that owns the sockets can promise."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from reactor_threads import reactors, signals, unheard, wake_ups
from servers import Client, _unacknowledged
from sse_hub import Hub, HubClosed, _core
from sse_hub._servers.granian import addresses_of, find_descriptors
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from waiting import PATIENCE, promised, until
from wire import Site, half_close, reset, segments

SITES = ("httptools",)
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def crowd(site: Site) -> Iterator[Callable[[Hub, int], list[socket.socket]]]:
    """Many handed-off clients at once, none of which reads yet."""
    sockets: list[socket.socket] = []

    def come(hub: Hub, count: int) -> list[socket.socket]:
        site.app = hub.endpoint("t")
        for _ in range(count):
            sockets.append(socket.create_connection(("127.0.0.1", site.port)))
            sockets[-1].sendall(REQUEST)
        until(lambda: hub.stats()["handed_off"] == count)
        return sockets

    yield come
    for sock in sockets:
        sock.close()


# --- Python is not involved ------------------------------------------------------------------------


def test_clients_receive_while_the_event_loop_is_blocked(site: Site) -> None:
    hub = site.hub()
    blocked, release = threading.Event(), threading.Event()

    async def block(request: Request) -> Response:
        blocked.set()
        return PlainTextResponse("done" if release.wait(PATIENCE) else "gave up")

    with site.stream(hub) as one, site.stream(hub) as other:
        site.app = Starlette(routes=[Route("/block", block)])
        with Client(site.port, "/block") as client:
            assert blocked.wait(PATIENCE)
            for n in range(15):
                hub.publish("t", n)
                for stream in (one, other):
                    assert stream.take(1) == [n]
            release.set()
            client.read_until(b"done")


def test_stalled_clients_delay_nobody(site: Site) -> None:
    hub = site.hub(capacity=10_000, capacity_bytes=2**30)
    stalled = [site.stream(hub, client={"receive_buffer": 4096}) for _ in range(20)]
    with site.stream(hub) as stream:
        took = []
        for _ in range(100):
            hub.publish("t", {"at": time.monotonic(), "fill": "x" * 10_000})
            took.append(time.monotonic() - stream.event().json()["at"])
        assert statistics.median(took) < 0.25, "a single one may be the machine's fault"
        assert hub.count() == 21
    for slow in stalled:
        slow.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
def test_the_kernel_keeps_little_for_a_stalled_client(site: Site) -> None:
    hub = site.hub(capacity=100_000, capacity_bytes=2**30, history=0)
    with site.stream(hub, client={"receive_buffer": 4096}) as stalled, site.stream(hub) as reading:
        local = stalled.sock.getsockname()[1]
        for n in range(2000):
            hub.publish("t", "x" * 4000)
            if n % 50 == 49:
                for _ in range(50):
                    reading.event()
        kept = _unacknowledged(site.port, local)
        print(f"unsent and in flight: {kept} bytes")
        assert 0 < kept < 192 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="counts wake-ups in /proc")
def test_a_burst_wakes_the_thread_for_many_events_at_once(
    site: Site, crowd: Callable[[Hub, int], list[socket.socket]]
) -> None:
    others, earlier = reactors(), signals()
    hub = site.hub(capacity=10_000)
    crowd(hub, 100)
    (reactor,), its = reactors() - others, signals() - earlier
    count, most = 500, 0
    with site.stream(hub) as stream:
        before = wake_ups(reactor)
        for number in range(count):
            hub.publish("t", number)
            most = max(most, *map(unheard, its))
        assert stream.take(count) == [*range(count)]
        woken = wake_ups(reactor) - before
    print(f"{count} events, {woken} wake-ups, at most {most} of them unheard")
    assert woken < count / 4
    # One for the log, and one for the newcomer: a thread that is awake is not woken again.
    assert most <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tcp_info")
def test_the_head_and_the_preamble_are_one_write(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub) as stream:
        assert stream.head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert stream.body.startswith(b": sse-hub ")
        # The other one is the opening, which the reactor's first turn may add to.
        assert segments(stream.sock) <= 2


# --- Clients that leave ----------------------------------------------------------------------------


def killed_process(port: int) -> Callable[[], None]:
    """A client in a process of its own; call what is returned to kill it."""
    source = (
        f"import socket, time\ns = socket.create_connection(('127.0.0.1', {port}))\ns.sendall({REQUEST!r})\n"
        "print(s.recv(100)[:12], flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"b'HTTP/1.1 200'\n"

    def kill() -> None:
        process.kill()
        process.communicate()

    return kill


@pytest.mark.parametrize("how", ["fin", "reset", "half-close", "killed"])
def test_a_client_that_leaves_is_gone_at_once(site: Site, how: str) -> None:
    hub = site.hub()
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    with site.stream(hub) as stays:
        if how == "killed":
            leave = killed_process(site.port)
        else:
            sock = site.stream(hub).sock
            ways = {"fin": sock.close, "reset": lambda: reset(sock), "half-close": lambda: half_close(sock)}
            leave = ways[how]
        until(lambda: hub.count() == 2)
        leave()
        took = until(lambda: hub.count() == 1, promised(1.0))
        print(f"gone after {took * 1000:.1f} ms")
        until(lambda: hub.stats()["handed_off"] == 1)
        until(lambda: reasons == ["client"])
        hub.publish("t", 1)
        assert stays.take(1) == [1]
        if how == "half-close":
            sock.close()


def test_the_kernel_asks_for_a_quiet_client(site: Site) -> None:
    """Nothing is written by which a client that has vanished would show."""

    def is_asked_for(address: tuple[str, int]) -> bool:
        (fd,) = find_descriptors(
            {addresses_of({"client": address, "server": ("127.0.0.1", site.port)})}
        ).values()
        with socket.socket(fileno=os.dup(fd)) as ours:
            return bool(ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    hub = site.hub(heartbeat=None, stall_timeout=1)
    with site.stream(hub) as stream:
        until(lambda: is_asked_for(stream.sock.getsockname()))


@pytest.mark.skipif(sys.platform != "linux", reason="counts wake-ups in /proc")
def test_many_heartbeats_cost_few_wake_ups(
    site: Site, crowd: Callable[[Hub, int], list[socket.socket]]
) -> None:
    others = reactors()
    hub = site.hub(heartbeat=1.0)
    crowd(hub, 500)
    (reactor,) = reactors() - others
    before, beats = wake_ups(reactor), hub.stats()["heartbeats"]
    until(lambda: hub.stats()["heartbeats"] >= beats + 1000)
    woken = wake_ups(reactor) - before
    print(f"1000 heartbeats, {woken} wake-ups")
    assert woken < 300


def test_a_client_that_sends_rubbish_is_closed(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub) as talker, site.stream(hub) as stays:
        talker.sock.sendall(b"x" * 1000)
        hub.publish("t", 1)
        assert talker.take(1) == [1], "a little is let pass"
        with suppress(ConnectionError):
            for _ in range(100):
                talker.sock.sendall(b"x" * 4096)
        until(lambda: hub.count() == 1)
        hub.publish("t", 2)
        assert stays.take(2) == [1, 2]


# --- What stays behind -----------------------------------------------------------------------------


def test_two_hubs_share_a_server(site: Site) -> None:
    one, other = site.hub(), site.hub()
    with site.stream(one) as first, site.stream(other) as second:
        one.publish("t", 1)
        other.publish("t", 2)
        assert (first.take(1), second.take(1)) == ([1], [2])
        one.close()
        assert first.rest() == []
        assert first.ended
        other.publish("t", 3)
        assert second.take(1) == [3]
        assert (one.count(), other.count()) == (0, 1)


def hand_over(hub: Hub, info: object = None) -> socket.socket:
    """A client whose socket goes to a reactor of `hub` without a server, on the loop that runs here."""
    client, server = socket.socketpair()
    fd = _core._duplicate(server.fileno())
    server.close()
    request = _core._Request(
        "t", replay=0, user=None, overflow=None, capacity=None, max_age=None, initial=False
    )
    try:
        hub._hand_over(fd, request, None, info, group=0, on_end=lambda reason: None)
    except BaseException:
        _core._close(fd)
        client.close()
        raise
    return client


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_hub_with_two_reactors(site: Site) -> None:
    hub = site.hub(threads=2)
    before = reactors()
    streams = [site.stream(hub, user=str(n % 3)) for n in range(12)]
    assert len(reactors() - before) == 2
    for n in range(500):
        hub.publish("t", n)
    for stream in streams:
        assert stream.take(500) == [*range(500)]
    assert hub.stats()["handed_off"] == hub.count() == 12
    for subscriber in hub.subscribers():
        subscriber.send("to one")
    for stream in streams:
        assert stream.take(1) == ["to one"]
    assert hub.disconnect(user="0") == 4
    until(lambda: hub.count() == 8)
    hub.close()
    for stream in streams:
        assert stream.rest() == []
        assert stream.ended
        stream.close()
    until(lambda: reactors() <= before)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_closing_while_others_hand_over_leaves_no_thread() -> None:
    before = reactors()
    hub = Hub(grace=0.0)
    stop = threading.Event()
    came: list[int] = []

    async def come() -> None:
        while not stop.is_set():
            with suppress(HubClosed):
                hand_over(hub).close()
                came.append(1)
            await asyncio.sleep(0)

    threads = [threading.Thread(target=asyncio.run, args=(come(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        seen = len(came)
        until(lambda seen=seen: len(came) > seen)
        hub.close()
    stop.set()
    for thread in threads:
        thread.join()
    hub.close()
    until(lambda: reactors() <= before)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_handle_that_is_kept_keeps_neither_threads_nor_connections(site: Site) -> None:
    hub = site.hub(capacity=100_000, capacity_bytes=2**30)
    before = reactors()
    with site.stream(hub, client={"receive_buffer": 4096}) as stalled:
        (handle,) = hub.subscribers()
        for _ in range(100):
            hub.publish("t", "x" * 20_000)
        hub.close(0.2)
        until(lambda: reactors() <= before)
        stalled.rest()
        assert stalled.reset
        assert handle.closed == "hub_closed"
        handle.close()


class Something:
    """What an application gives with a stream."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_given_with_a_stream_is_let_go_although_its_loop_is_closed(when: str) -> None:
    with Hub() as hub:

        async def come(info: object) -> socket.socket:
            return hand_over(hub, info)

        async def another_loop() -> None:
            hub.subscribe("u")

        info = Something()
        client = asyncio.run(come(info))
        is_there = weakref.ref(info)
        del info
        gc.collect()
        assert is_there() is not None, "the stream goes on"
        if when == "after":
            asyncio.run(another_loop())
        client.close()
        until(lambda: hub.count("t") == 0)
        asyncio.run(another_loop())
        other = asyncio.run(come(None))
        gc.collect()
        assert is_there() is None
    other.close()
