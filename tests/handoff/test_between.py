"""What happens while a response is about to be handed off, and what middleware sees of it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio._backends._asyncio as anyio_on_asyncio
import pytest
from sse_hub import EventSourceResponse, Hub
from sse_hub._handoff.taking import make_attempt
from sse_hub._servers.stay import Stay
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from waiting import PATIENCE, promised, until
from wire import Site, only, quiet, reset

SITES = ("httptools", "h11")


class Gate:
    """Middleware that holds back messages of one type until the test lets them go. It keeps all it sees."""

    def __init__(self, app: ASGIApp, held: str = "") -> None:
        self.app = app
        self.held = held
        self.reached = threading.Event()
        self.open = threading.Event()
        self.seen: list[tuple[str, bool]] = []
        self.over = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def gated(message: Message) -> None:
            if message["type"] == self.held:
                self.reached.set()
                await asyncio.to_thread(self.open.wait, PATIENCE)
            await send(message)
            self.seen.append((message["type"], message.get("more_body", False)))

        try:
            await self.app(scope, receive, gated)
        finally:
            self.over.set()


def streams(hub: Hub) -> Starlette:
    async def response(request: Request) -> Response:
        return hub.response("t")

    async def subscription(request: Request) -> Response:
        return EventSourceResponse(hub.subscribe("t"))

    async def run(request: Request) -> Response:
        await hub.run("r", endless)
        return hub.follow("r")

    endpoints = {"/response": response, "/subscription": subscription, "/run": run}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in endpoints.items()])


async def endless() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


KINDS = pytest.mark.parametrize("kind", ["response", "subscription"])
HEAD, BODY = "http.response.start", "http.response.body"


@KINDS
def test_middleware_sees_a_complete_response(site: Site, kind: str) -> None:
    hub = site.hub()
    site.app = gate = Gate(BaseHTTPMiddleware(streams(hub), dispatch=lambda request, nxt: nxt(request)))
    with site.raw(f"/{kind}") as stream:
        stream.opened()
        assert gate.over.wait(PATIENCE)
        assert gate.seen == [(HEAD, False), (BODY, True), (BODY, False)]
        assert only(hub).path == "reactor"


@KINDS
@pytest.mark.parametrize("held", [HEAD, BODY])
def test_a_beginning_that_is_held_back_does_not_wait_for_the_hand_off(
    site: Site, kind: str, held: str
) -> None:
    hub = site.hub()
    site.app = gate = Gate(streams(hub), held)
    began = time.monotonic()
    with site.raw(f"/{kind}") as stream:
        assert gate.reached.wait(PATIENCE)
        if held == BODY:
            while not stream.head:  # it was sent, and nothing but the hand-off holds it
                stream._read()
            assert time.monotonic() - began < promised(0.5)
        else:
            time.sleep(0.3)
        gate.open.set()
        stream.opened()
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert only(hub).path == "loop"
        assert hub.stats()["stayed"] == {"late": 1}


@KINDS
@pytest.mark.parametrize("held", [HEAD, BODY])
@pytest.mark.parametrize("leave", [reset, lambda sock: sock.close()], ids=["reset", "close"])
def test_a_client_that_leaves_in_between_leaves_nothing(
    site: Site, kind: str, held: str, leave: Callable[[Any], None]
) -> None:
    hub = site.hub()
    site.app = gate = Gate(streams(hub), held)
    stream = site.raw(f"/{kind}")
    assert gate.reached.wait(PATIENCE)
    connections = site.server.servers[0].server_state.connections
    until(lambda: len(connections) == 1)  # an earlier test's may be closing
    (protocol,) = connections
    leave(stream.sock)
    until(lambda: protocol.cycle.disconnected)
    gate.open.set()
    assert gate.over.wait(PATIENCE)
    until(lambda: hub.count() == 0)
    assert sum(hub.stats()["stayed"].values()) == 1
    assert not connections


@pytest.mark.parametrize("kind", ["subscription", "run"])
def test_a_client_that_leaves_before_a_late_head_ends_its_subscription(site: Site, kind: str) -> None:
    hub = site.hub()
    site.app = gate = Gate(streams(hub), HEAD)
    with site.raw(f"/{kind}"):
        assert gate.reached.wait(PATIENCE)
        assert hub.count() == 1
    until(lambda: hub.count() == 0)
    assert hub.stats()["ends"]["client"] == 1
    gate.open.set()
    assert gate.over.wait(PATIENCE)


@pytest.mark.parametrize("kind", ["subscription", "run"])
def test_a_stream_that_stalls_before_a_late_head_breaks_off(site: Site, kind: str) -> None:
    hub = site.hub(stall_timeout=0.3)
    site.app = gate = Gate(streams(hub), HEAD)
    with quiet(), site.raw(f"/{kind}") as stream:
        assert gate.reached.wait(PATIENCE)
        hub.publish("t", 1)
        until(lambda: hub.stats()["ends"]["stalled"] == 1)
        gate.open.set()
        assert [event for event in stream.rest() if not event.is_comment] == []
        assert stream.reset


@KINDS
@pytest.mark.parametrize("held", [HEAD, BODY])
@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_server_that_stops_in_between_ends_the_stream(kind: str, held: str, http: str) -> None:
    site = Site(http)
    hub = site.hub()
    site.app = gate = Gate(streams(hub), held)
    with site.raw(f"/{kind}") as stream:
        assert gate.reached.wait(PATIENCE)
        site.server.stop()
        until(lambda: not site.server.servers[0].servers[0].is_serving())
        gate.open.set()
        assert [event for event in stream.rest() if not event.is_comment] == []
        assert stream.ended
        site.server.wait()
    assert set(hub.stats()["stayed"]) <= {"stopping", "late"}
    site.close_hubs()
    site.close()


def test_a_request_inside_a_request_takes_no_connection(site: Site) -> None:
    found: list[object] = []

    async def endpoint(request: Request) -> Response:
        inner = {"type": "http", "method": "GET", "headers": [], "http_version": "1.1", "state": {}}

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        found.append(make_attempt(inner, receive))
        return PlainTextResponse("outer")

    site.app = Starlette(routes=[Route("/", endpoint)])
    with site.raw() as stream:
        while b"outer" not in stream.received:
            stream._read()
    assert found == [Stay.HIDDEN]


class Hiding:
    """Middleware that replaces ``receive`` and the scope."""

    def __init__(self, app: ASGIApp, *, in_a_task: bool = False) -> None:
        self.app = app
        self.in_a_task = in_a_task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        calls: list[Callable[[], Awaitable[Message]]] = [receive]

        async def other() -> Message:
            return await calls[0]()

        served = self.app({**scope, "headers": [*scope["headers"]]}, other, send)
        await (asyncio.ensure_future(served) if self.in_a_task else served)


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_it_is_found_where_middleware_replaces_receive_and_the_scope(site: Site, tasks: int) -> None:
    async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    hub = site.hub()
    site.app = Hiding(streams(hub))
    for _ in range(tasks):
        site.app = BaseHTTPMiddleware(site.app, passes)
    with site.raw("/response") as stream:
        stream.opened()
        assert only(hub).path == "reactor"


@pytest.mark.parametrize("states", ["missing", None], ids=["missing", "another-type"])
def test_behind_another_version_of_anyio_it_is_not(
    site: Site, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    other = SimpleNamespace(**{**vars(anyio_on_asyncio), "_task_states": states})
    if states == "missing":
        del other._task_states
    monkeypatch.setitem(sys.modules, anyio_on_asyncio.__name__, other)
    hub = site.hub()
    site.app = BaseHTTPMiddleware(Hiding(streams(hub)), passes)
    with site.raw("/response") as stream:
        stream.opened()
        assert only(hub).path == "loop"
        assert hub.stats()["stayed"] == {"hidden": 1}


def test_where_it_cannot_be_found_the_stream_stays(site: Site) -> None:
    hub = site.hub()
    site.app = Hiding(streams(hub), in_a_task=True)
    with site.raw("/response") as stream:
        stream.opened()
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert only(hub).path == "loop"
        assert hub.stats()["stayed"] == {"hidden": 1}
