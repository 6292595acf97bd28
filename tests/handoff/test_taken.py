"""A response takes its connection from uvicorn, however that was started, and nothing needs to be turned on.

The streams here take their connection over themselves and are written by a thread, see ``handoff_app``.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import sse_hub.uvicorn
import uvicorn
from handoff_app import HANDED_OFF, PORTABLE, build
from handoff_serving import (
    EVENTS,
    body_of,
    serving,
)
from loops import LOOPS
from servers import Client, Command, run
from sse_hub._handoff.attempt import Attempt
from sse_hub._servers.stay import Stay
from waiting import PATIENCE, until

NAMES: tuple[Any, dict[str, Any]] = (sse_hub.uvicorn.HandOff, {})
# The names that once turned it on change nothing.
DOORS = {
    "httptools": ("httptools", False),
    "h11": ("h11", False),
    "protocol": ("sse_hub.uvicorn:Protocol", False),
    "middleware": ("h11", True),
    "both": ("sse_hub.uvicorn:Protocol", True),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("loop", LOOPS)
def test_the_connection_leaves_the_server_and_goes_on(loop: str, door: str) -> None:
    http, middleware = DOORS[door]
    with serving(*[NAMES] * middleware, http=http, loop=loop) as (server, observed):
        state = server.servers[0].server_state
        with Client(server.port, "/events") as client:
            head = client.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"transfer-encoding: chunked" in head.lower()
            preamble = client.read_until(b"\n\n\r\n")
            # The request is over for the server and for the app, while the client's stream goes on.
            assert observed.closed.wait(PATIENCE)
            until(lambda: not state.tasks and not state.connections)
            observed.release.set()
            assert body_of(head + preamble + client.read_to_end()).endswith(b"\n\n" + HANDED_OFF)
        assert observed.opened == [True]


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_nothing_of_an_earlier_request_on_the_connection_ends_it(http: str) -> None:
    with ExitStack() as stack:
        server, observed = stack.enter_context(serving(http=http, timeout_keep_alive=1))
        client = stack.enter_context(Client(server.port, "/plain"))
        client.read_until(b"\r\n\r\nplain")
        client.sock.sendall(EVENTS)
        client.read_until(b"\n\n\r\n")
        client.sock.settimeout(2)  # twice as long as uvicorn keeps an idle connection
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(PATIENCE)
        observed.release.set()
        assert HANDED_OFF in client.read_to_end()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at epoll through /proc")
@pytest.mark.parametrize("loop", LOOPS)
def test_the_servers_loop_does_not_watch_it_any_more(loop: str) -> None:
    with serving(loop=loop) as (server, observed), Client(server.port, "/events?keep=1") as client:
        client.read_until(b"\n\n\r\n")
        until(lambda: len(observed.streams.open) == 1)
        until(lambda: not server.servers[0].server_state.connections)
        (sock,) = observed.streams.open
        inode = f"ino:{os.fstat(sock.fileno()).st_ino:x} "
        watched = ""
        for path in Path("/proc/self/fdinfo").iterdir():
            with suppress(FileNotFoundError):  # another thread closed it
                watched += path.read_text()
        assert "tfd:" in watched
        assert inode not in watched


def test_nothing_is_left_in_python() -> None:
    with serving() as (server, observed), Client(server.port, "/late") as client:
        assert observed.began.wait(PATIENCE)
        (protocol,) = server.servers[0].server_state.connections
        left = weakref.ref(protocol)
        del protocol
        observed.release.set()
        until(lambda: len(observed.streams.open) == 1)
        until(lambda: not server.servers[0].server_state.tasks)
        # What the response still has of the server refers to nothing.
        attempt = observed.attempts[0]
        assert isinstance(attempt, Attempt)
        assert [*observed.streams.open.values()] == [attempt.server.group]
        until(lambda: gc.collect() >= 0 and left() is None)
        server.stop()
        client.read_to_end()


def test_a_posted_body_that_was_read_does_not_prevent_it() -> None:
    with serving() as (server, observed), Client(server.port, "/plain") as client:
        client.read_until(b"\r\n\r\nplain")
        client.sock.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        observed.release.set()
        assert body_of(client.read_to_end()).endswith(HANDED_OFF)


def test_the_access_log_has_the_address_from_the_proxy(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as (server, observed):
        observed.release.set()
        with Client(server.port, "/events", headers="X-Forwarded-For: 192.0.2.7:0\r\n") as client:
            client.read_to_end()
    assert "192.0.2.7:0 - " in caplog.text


def test_a_unix_socket_can_be_handed_off(tmp_path: Path) -> None:
    app = build()
    path = str(tmp_path / "socket")
    config = uvicorn.Config(app, uds=path, loop="asyncio", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(path)
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            app.state.observed.release.set()
            received = b""
            while data := sock.recv(65536):
                received += data
        assert body_of(received).endswith(HANDED_OFF)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


async def test_under_other_servers_nothing_is_taken() -> None:
    app = build(NAMES)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/events")
    assert response.content.count(PORTABLE) == 3
    assert app.state.observed.attempts == [Stay.HIDDEN]


def test_h11_is_used_where_httptools_is_missing() -> None:
    source = (
        "import sys; sys.modules['httptools'] = None; sys.modules['uvloop'] = None\n"
        "import sse_hub.uvicorn, uvicorn, handoff_app as app\n"
        "assert 'H11Protocol' in [cls.__name__ for cls in sse_hub.uvicorn.Protocol.__mro__]\n"
        "uvicorn.run(app.factory(), port=0, http='sse_hub.uvicorn:Protocol')\n"
    )
    command = Command([sys.executable, "-u", "-c", source])
    with run(command) as server, Client(server.port, "/events") as client:
        assert body_of(client.read_to_end()).endswith(HANDED_OFF)
