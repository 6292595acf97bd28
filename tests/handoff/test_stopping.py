"""Streams that were handed off end with the uvicorn server they came from."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn
from handoff_app import GOODBYE, PORTABLE, Observed, build
from handoff_serving import (
    body_of,
    is_handed_off,
    serving,
)
from loops import LOOPS
from servers import Client, ThreadServer
from sse_hub._servers.uvicorn import UvicornServer
from sse_hub._stopping import registry
from sse_hub._stopping.handed import handed_off, running_server
from sse_hub._stopping.server_stop import ServerStop
from waiting import PATIENCE, promised, until
from wire import WAYS, Site, Stream, quiet


@pytest.mark.parametrize("loop", LOOPS)
def test_streams_that_left_end_with_their_server(loop: str, capfd: pytest.CaptureFixture[str]) -> None:
    app, other = build(), build()
    streams: list[Any] = [app.state.observed.streams, other.state.observed.streams]
    with ThreadServer(app, other, loop=loop, log_config=None) as server:
        clients = [Client(port, "/events?keep=1") for port in server.ports for _ in range(2)]
        until(lambda: all(len(each.open) == 2 for each in streams))
        server.stop()
        for client in clients[:2]:
            assert body_of(client.read_to_end()).endswith(GOODBYE)
        server.wait()
        assert len(streams[0].stopped) == 1
        assert streams[0].aborted == []
        assert "lifespan ended with 0 streams" in capfd.readouterr().out
        # The other server, on the same loop, is another one.
        assert streams[1].stopped == []
        server.stop(1)
        for client in clients[2:]:
            assert body_of(client.read_to_end()).endswith(GOODBYE)
        server.wait(1)
        assert streams[0].stopped != streams[1].stopped
        for client in clients:
            client.close()
    numbers = {*streams[0].stopped, *streams[1].stopped}
    del server, app, other
    gc.collect()
    assert not numbers & {running.group for running in registry._running.values()}


@pytest.mark.parametrize(("grace", "timeout"), [(0.3, None), (30.0, 1)])
def test_streams_that_do_not_end_are_aborted(
    grace: float, timeout: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(timeout_graceful_shutdown=timeout) as (server, observed):
        observed.streams.grace, observed.streams.deaf = grace, True
        with Client(server.port, "/events?keep=1") as client:
            until(lambda: len(observed.streams.open) == 1)
            began = time.monotonic()
            server.stop()
            client.read_to_end()
            assert time.monotonic() - began >= 0.3
            server.wait()
            assert time.monotonic() - began < promised(2)
        assert len(observed.streams.stopped) == len(observed.streams.aborted) == 1
        assert "lifespan ended with 0 streams" in capfd.readouterr().out


def test_an_impatient_stop_aborts_them_at_once() -> None:
    with serving(lifespan="off") as (server, observed):
        observed.streams.grace, observed.streams.deaf = 30.0, True
        with Client(server.port, "/events?keep=1") as client:
            until(lambda: len(observed.streams.open) == 1)
            server.stop()
            until(lambda: len(observed.streams.stopped) == 1)
            server.servers[0].force_exit = True
            client.read_to_end()
            server.wait()


@pytest.mark.parametrize("first", ["of the process", "of its thread", None])
def test_nothing_leaves_a_server_that_stops(first: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if first:  # no shutdown of this process was ever watched
        shutdown: Any = uvicorn.Server.shutdown
        while hasattr(shutdown, "__wrapped__"):
            shutdown = shutdown.__wrapped__
        monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
        monkeypatch.setattr("sse_hub._servers.uvicorn._wrapped", {})
    with serving() as (server, observed):
        with Client(server.port, "/late") as client:
            assert observed.began.wait(PATIENCE)
            server.stop()
            until(lambda: not server.servers[0].servers[0].is_serving())
            if first == "of its thread":
                with serving() as (other, others):
                    is_handed_off(other, others)
            observed.release.set()
            assert body_of(client.read_to_end()).endswith(PORTABLE * 3)
        server.wait()
        assert observed.opened == [False]


async def test_streams_registered_while_their_server_stops_are_stopped_at_once() -> None:
    calls: list[str] = []

    class Late:
        grace = 1.0

        def _before_stop(self, then: Callable[[], None]) -> None:
            then()

        def _stop_group(self, group: int) -> None:
            calls.append("stop")

        def _open_in_group(self, group: int) -> int:
            calls.append("count")
            return int(len(calls) <= 3)

        def _abort_group(self, group: int) -> None:
            calls.append("abort")

    server = uvicorn.Server(uvicorn.Config(build()))
    running = running_server(server.server_state)
    assert running is running_server(server.server_state)
    late = Late()
    stop = ServerStop(UvicornServer(server))
    assert running.stopping
    stop.begin()
    handed_off(running, late, running.group)
    (task,) = server.server_state.tasks  # so that uvicorn waits
    await task
    assert calls == ["stop", "count", "count", "count"]
    another = running_server(uvicorn.Server(uvicorn.Config(build())).server_state)
    handed_off(another, late, another.group)
    assert not server.server_state.tasks
    stop.end()


async def test_streams_are_held_weakly() -> None:
    server = uvicorn.Server(uvicorn.Config(build()))
    observed = Observed()
    running = running_server(server.server_state)
    handed_off(running, observed.streams, running.group)
    ref = weakref.ref(observed.streams)
    del observed
    assert ref() is None
    stop = ServerStop(UvicornServer(server))
    stop.begin()
    assert not server.server_state.tasks
    stop.end()


@pytest.mark.parametrize("way", WAYS)
def test_readers_get_what_was_queued_and_the_end_of_the_body(way: str) -> None:
    site = Site(way)
    # The readers share this process with their server: within the grace they only take what it sends.
    hub = site.hub(capacity=100_000, grace=2.0)
    with ExitStack() as opened, quiet():
        opened.callback(site.close)
        opened.enter_context(site.stream(hub, client={"receive_buffer": 4096}, overflow="drop_oldest"))
        streams = [opened.enter_context(site.stream(hub)) for _ in range(8)]
        for n in range(500):
            hub.publish("t", {"n": n, "fill": "x" * 1000})
        began = time.monotonic()
        site.server.stop()
        with ThreadPoolExecutor(8) as pool:
            bodies = [*pool.map(Stream.read_to_end, streams)]
        site.server.wait()
        assert time.monotonic() - began < promised(2 + hub.grace)
        assert hub.count() == 0
        for stream, body in zip(streams, bodies, strict=True):
            stream.received = body
            while stream._chunk():
                pass
            assert [event.json()["n"] for event in stream.rest()] == [*range(500)]
            assert stream.ended


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_each_of_uvicorns_protocols_and_loops(http: str, loop: str) -> None:
    site = Site(http, http=http, loop=loop)
    with ExitStack() as opened, quiet():
        opened.callback(site.close)
        hub = site.hub()
        site.app = hub.endpoint("t")
        streams = [opened.enter_context(Stream(site.port)) for _ in range(20)]  # all at once
        for stream in streams:
            stream.opened()
        assert hub.stats()["handed_off"] == 20
        for n in range(100):
            hub.publish("t", n)
        streams.pop().close()
        until(lambda: hub.count() == 19, promised(1.0))
        site.server.stop()
        for stream in streams:
            assert [event.json() for event in stream.rest()] == [*range(100)]
            assert stream.ended
        site.close_hubs()
