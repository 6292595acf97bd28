"""Servers inside a larger program: only the stopping server's streams end, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from loops import LOOPS
from servers import Client, ThreadServer, wait_until_it_refuses
from sse_hub._servers import abort
from sse_hub._servers.granian import GranianServer
from sse_hub._servers.uvicorn import UvicornServer, find_cycle
from sse_hub._stopping import registry
from sse_hub._stopping.server_stop import ServerStop
from sse_hub._stopping.serving import Serving
from stopping_app import app, burst_ended, late_began, slow_began
from waiting import PATIENCE, promised

GRACE = 1.0
OPENSSL = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost"
TICK = b"data: tick\n\n"

loops = pytest.mark.parametrize("loop", LOOPS)


def open_streams(server: ThreadServer, stack: ExitStack, *paths: str, index: int = 0) -> list[Client]:
    clients = [stack.enter_context(Client(server.ports[index], path)) for path in paths]
    for client in clients:
        client.read_until(TICK)
    return clients


def ended(client: Client) -> bool:
    return client.read_to_end().endswith(b"\r\n0\r\n\r\n")


@loops
def test_only_the_stopping_servers_streams_end(loop: str) -> None:
    """Two servers in threads of their own, and two on one loop."""
    with (
        ThreadServer(app, loop=loop) as alone,
        ThreadServer(app, app, loop=loop) as pair,
        ExitStack() as stack,
    ):
        others = open_streams(alone, stack, "/raw", "/hub", "/middleware/raw")
        others += open_streams(pair, stack, "/raw", "/hub", "/middleware/raw", index=1)
        own = open_streams(pair, stack, "/raw", "/hub", "/middleware/raw", "/middleware/hub")
        pair.stop(0)
        assert all(map(ended, own))
        pair.wait(0)
        for client in others:  # they go on: whatever had arrived before, more comes now
            client.received = b""
            client.read_until(TICK)
            client.read_until(TICK)


@loops
def test_servers_may_follow_each_other(loop: str) -> None:
    others = set(registry._registry), set(registry._stops)
    for _ in range(2):
        with ThreadServer(app, loop=loop) as server, ExitStack() as stack:
            streams = open_streams(server, stack, "/raw", "/hub")
            stalled = stack.enter_context(Client(server.port, "/raw/flood", receive_buffer=4096))
            stalled.wait_stalled()
            began = time.monotonic()
            server.stop()
            assert all(map(ended, streams))
            server.wait()
            assert time.monotonic() - began < promised(2 + GRACE)
    del server  # handed-off streams are registered for as long as their server exists
    gc.collect()
    assert set(registry._registry) <= others[0]
    assert set(registry._stops) <= others[1]


def test_a_stream_behind_a_middleware_that_hides_everything_ends_too() -> None:
    with ThreadServer(app) as server, ExitStack() as stack:
        streams = open_streams(server, stack, "/hidden/raw", "/hidden/hub", "/raw")
        server.stop()
        assert all(map(ended, streams))
        server.wait()


def test_an_ordinary_request_is_not_cut() -> None:
    slow_began.clear()
    with ThreadServer(app) as server, ExitStack() as stack:
        stalled = stack.enter_context(Client(server.port, "/raw/flood", receive_buffer=4096))
        stalled.wait_stalled()
        began = time.monotonic()
        slow = stack.enter_context(Client(server.port, "/slow?seconds=1.8"))
        assert slow_began.wait(PATIENCE)
        server.stop()
        assert slow.read_to_end().endswith(b"slow but whole")
        assert time.monotonic() - began > GRACE
        server.wait()


def test_a_stream_that_begins_while_its_server_stops_ends_at_once() -> None:
    late_began.clear()
    with ThreadServer(app) as server, ExitStack() as stack:
        open_streams(server, stack, "/raw")  # so that this library is in use
        late = stack.enter_context(Client(server.port, "/late?seconds=0.6"))
        assert late_began.wait(PATIENCE)
        began = time.monotonic()
        server.stop()
        assert b"data: goodbye" in late.read_to_end()
        server.wait()
        assert time.monotonic() - began < promised(0.6 + GRACE)


def test_the_first_stream_of_a_process_may_begin_while_its_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late_began.clear()
    shutdown = uvicorn.Server.shutdown
    monkeypatch.setattr(uvicorn.Server, "shutdown", getattr(shutdown, "__wrapped__", shutdown))
    monkeypatch.setattr("sse_hub._servers.uvicorn._wrapped", {})
    with ThreadServer(app) as server, Client(server.port, "/late?seconds=0.6") as late:
        assert late_began.wait(PATIENCE)
        server.stop()
        wait_until_it_refuses(server.port)  # so it is stopping, and no stream has begun
        assert b"data: goodbye" in late.read_to_end()
        server.wait()


@loops
def test_streams_over_tls_end_too(loop: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [*OPENSSL.split(), "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.create_default_context(cafile=certificate)
    tls.check_hostname = False
    with ExitStack() as stack:
        server = stack.enter_context(ThreadServer(app, loop=loop, ssl_keyfile=key, ssl_certfile=certificate))
        reading = [
            stack.enter_context(Client(server.port, path, tls=tls)) for path in ("/raw", "/generated", "/hub")
        ]
        for client in reading:
            client.read_until(TICK)
        for path in ("/raw/flood", "/generated/flood", "/hub/flood"):
            stalled = stack.enter_context(Client(server.port, path, receive_buffer=4096, tls=tls))
            stalled.wait_stalled()
        server.stop()
        assert all(map(ended, reading))
        server.wait(timeout=promised(2 + GRACE))
    assert capfd.readouterr().err == ""


@loops
def test_a_finished_response_that_nobody_takes_does_not_keep_its_server(loop: str) -> None:
    burst_ended.clear()
    with ThreadServer(app, loop=loop) as server, ExitStack() as stack:
        stack.enter_context(Client(server.port, "/burst", receive_buffer=4096))
        assert burst_ended.wait(PATIENCE)
        server.stop()
        server.wait(timeout=promised(2 + GRACE))


def test_abort_ends_a_connection_that_nobody_reads() -> None:
    aborted: list[bool] = []
    left = threading.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        async def wrapped() -> Any:
            return await receive()

        asyncio.get_running_loop().call_later(0.2, lambda: aborted.append(abort(wrapped)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not aborted:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    with ThreadServer(stream, lifespan="off") as server:
        with Client(server.port, "/", receive_buffer=4096):
            assert left.wait(PATIENCE)
        assert aborted == [True]


def test_abort_says_when_it_cannot() -> None:
    async def receive() -> Any: ...

    assert abort(receive) is False


class Endless:
    """A stream that counts how often it is stopped."""

    grace = 0.0

    def __init__(self, error: Exception | None = None) -> None:
        self.stops = 0
        self.error = error

    def stop(self) -> None:
        self.stops += 1
        if self.error is not None:
            raise self.error

    def finished(self) -> bool:
        return False

    def abort(self) -> None: ...


async def forever() -> Any:
    await asyncio.get_running_loop().create_future()


def test_a_loop_closed_under_a_stream_leaves_nothing() -> None:
    gc.collect()  # or what other tests have left goes in the middle of this one
    others = set(registry._registry)

    async def respond(stream: Endless) -> None:
        with Serving({"type": "http", "headers": []}, forever, stream):
            await forever()

    loop = asyncio.new_event_loop()
    coroutine = respond(Endless())
    task = loop.create_task(coroutine)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert set(registry._registry) > others
    loop.close()
    coroutine.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain about this test
    del task, coroutine
    gc.collect()
    assert set(registry._registry) <= others


async def test_one_stream_that_fails_to_stop_does_not_keep_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams = [Endless(RuntimeError("no")), Endless()]
    scope = {"type": "http", "headers": []}
    with Serving(scope, forever, streams[0]), Serving(scope, forever, streams[1]):
        stopping = ServerStop(GranianServer())
        stopping.begin()
        stopping.begin()
        stopping.end()
    assert [stream.stops for stream in streams] == [1, 1]
    assert "could not be stopped" in caplog.text


def test_without_asyncio_nothing_is_registered() -> None:
    before = set(registry._registry)
    with Serving({"type": "http", "headers": []}, forever, Endless()):
        assert registry._registry <= before


async def test_an_unknown_inside_is_left_alone() -> None:
    with Serving({"type": "http", "headers": []}, forever, stream := Endless()):
        stopping = ServerStop(UvicornServer(object()))
        stopping.begin()
        stopping.end()
    assert stream.stops == 0
    assert find_cycle(forever) is None
