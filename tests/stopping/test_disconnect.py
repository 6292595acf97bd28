"""DisconnectWatch: under uvicorn's own receive without a task, under any other with one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import Client, ThreadServer
from sse_hub._responses.disconnect import DisconnectWatch
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import Message
from waiting import PATIENCE


class App:
    """Streams until its watch says that the client left; the test looks at what happened."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.closed = threading.Event()
        self.tasks_of_watch = -1
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if "/ordinary" in scope["path"]:
            await self.ordinary(receive, send)
            return
        loop = asyncio.get_running_loop()
        gone = loop.create_future()

        def on_disconnect() -> None:
            self.calls += 1
            gone.set_result(None)

        await send({"type": "http.response.start", "status": 200, "headers": []})
        before = len(asyncio.all_tasks())
        watch = DisconnectWatch(receive, on_disconnect)
        watch.start()
        self.tasks_of_watch = len(asyncio.all_tasks()) - before
        await send({"type": "http.response.body", "body": b"open", "more_body": True})
        await gone
        watch.close()
        self.left.set()

    async def ordinary(self, receive: Any, send: Any) -> None:
        """Ends on its own while the client stays."""
        watch = DisconnectWatch(receive, lambda: setattr(self, "calls", self.calls + 1))
        watch.start()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        watch.close()
        await send({"type": "http.response.body", "body": b"ok"})
        self.closed.set()


Served = tuple[App, ThreadServer, bool]


async def passes(request: Any, call_next: Callable[..., Any]) -> Any:
    return await call_next(request)


@pytest.fixture(params=["asyncio-httptools", "asyncio-h11", "uvloop-httptools", "uvloop-h11"])
def options(request: pytest.FixtureRequest) -> dict[str, str]:
    loop, http = request.param.split("-")
    return {"loop": loop, "http": http, "lifespan": "off"}


@pytest.fixture(params=["plain", "middleware"])
def served(request: pytest.FixtureRequest, options: dict[str, str]) -> Iterator[Served]:
    app = App()
    wrapped = request.param == "middleware"
    with ThreadServer(BaseHTTPMiddleware(app, dispatch=passes) if wrapped else app, **options) as server:
        yield app, server, wrapped


def test_it_notices_that_the_client_left(served: Served) -> None:
    app, server, wrapped = served
    with Client(server.port, "/") as client:
        client.read_until(b"open")
        assert app.tasks_of_watch == (1 if wrapped else 0)
        assert not app.left.is_set()
    assert app.left.wait(PATIENCE)
    assert app.calls == 1


def test_the_rest_of_a_body_is_not_a_disconnect(served: Served) -> None:
    app, server, _ = served
    with Client(server.port, "/", headers="Content-Length: 6\r\n") as client:
        client.read_until(b"open")
        client.sock.sendall(b"abc")
        client.sock.sendall(b"def")
        assert not app.left.wait(0.2)
    assert app.left.wait(PATIENCE)
    assert app.calls == 1


def test_a_closed_watch_says_nothing(served: Served) -> None:
    app, server, _ = served
    with Client(server.port, "/ordinary") as client:
        client.read_until(b"ok")
        assert app.closed.wait(PATIENCE)
        # The connection is as good as before: nothing of the watch is left on it.
        client.sock.sendall(b"GET /ordinary HTTP/1.1\r\nHost: x\r\n\r\n")
        client.read_until(b"ok")
    assert app.calls == 0


class Queue(asyncio.Queue[Message]):
    """Not asyncio's own class, so its ``get`` is driven by a task."""


@pytest.fixture(params=[asyncio.Queue, Queue])
def messages(request: pytest.FixtureRequest) -> asyncio.Queue[Message]:
    return request.param()


async def test_a_disconnect_that_waited_is_reported_after_start(messages: asyncio.Queue[Message]) -> None:
    await messages.put({"type": "http.request", "body": b""})
    await messages.put({"type": "http.disconnect"})
    left = asyncio.Event()
    watch = DisconnectWatch(messages.get, left.set)
    watch.start()
    assert not left.is_set()
    await asyncio.wait_for(left.wait(), PATIENCE)
    watch.close()
    watch.close()


async def test_close_before_the_report_keeps_it_silent(messages: asyncio.Queue[Message]) -> None:
    calls: list[int] = []
    watch = DisconnectWatch(messages.get, lambda: calls.append(1))
    await messages.put({"type": "http.disconnect"})
    watch.start()
    watch.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls == []
    assert len(asyncio.all_tasks()) == 1


async def test_close_while_it_waits_leaves_the_receiver_usable(messages: asyncio.Queue[Message]) -> None:
    watch = DisconnectWatch(messages.get, lambda: None)
    watch.start()
    await asyncio.sleep(0)
    watch.close()
    await asyncio.sleep(0)
    await messages.put({"type": "http.request"})
    assert await messages.get() == {"type": "http.request"}


async def test_a_receive_that_fails_counts_as_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Message:
        raise RuntimeError("broken middleware")

    left = asyncio.Event()
    DisconnectWatch(receive, left.set).start()
    await asyncio.wait_for(left.wait(), PATIENCE)
    assert "broken middleware" in caplog.text


def test_close_works_on_a_closed_loop(messages: asyncio.Queue[Message]) -> None:
    async def begin() -> DisconnectWatch:
        watch = DisconnectWatch(messages.get, lambda: None)
        watch.start()
        await asyncio.sleep(0)
        return watch

    loop = asyncio.new_event_loop()
    watch = loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    watch.close()
