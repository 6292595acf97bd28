"""Clients that leave are gone at once and leave nothing behind, though no garbage is ever collected."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from loops import LOOPS
from scripted import Connection, done
from servers import WEB_SOCKET, Client, Command, ServerProcess, granian, hypercorn, run, self_signed, uvicorn
from sse_hub import EventSourceResponse, Hub, Subscription
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from waiting import PATIENCE, until, until_async
from wire import Site, quiet

APP = "leaving_app:app"
SERVERS: dict[str, Callable[[], Command]] = {
    "uvicorn": lambda: uvicorn(APP),
    "hypercorn": lambda: hypercorn(APP),
    "granian": lambda: granian(APP),
}


def state(server: ServerProcess) -> dict[str, Any]:
    with Client(server.port, "/state", headers="Connection: close\r\n") as client:
        response = client.read_to_end()
    found: dict[str, Any] = json.loads(response[response.index(b"{") : response.rindex(b"}") + 1])
    return found


def visit(server: ServerProcess, path: str, clients: int = 10) -> None:
    """So many clients come at once, and leave when each has something."""
    visitors = [Client(server.port, path) for _ in range(clients)]
    for visitor in visitors:
        visitor.read_until(b"\n\n" if "sub" in path else b"data:")
    for visitor in visitors:
        visitor.close()


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_left_of_clients_that_left_a_server(name: str) -> None:
    with run(SERVERS[name]()) as server:
        places = ["/streaming", "/named", "/named-streaming"]
        for path in [*places, *(f"/middleware{place}" for place in places)]:
            visit(server, path)
            until(lambda: state(server)["count"] == 0)
        until(lambda: len(state(server)["reasons"]) == 60)
        assert state(server)["reasons"] == ["client"] * 60
        for path in ("/generator", "/middleware/generator"):
            visit(server, path)
            until(lambda: state(server)["locals"] == 0)


class Hidden:
    """Middleware behind which uvicorn is not seen."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        class Passes:
            async def __call__(self) -> Message:
                return await wrapped[0]()

        wrapped = [receive]
        await self.app(scope, Passes(), send)


async def passes(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


class NextRequests:
    """Streams of each kind under uvicorn, whose clients send their next request meanwhile, and leave.

    uvicorn reads nothing more of such a client.
    """

    PATHS = ("/response", "/subscription", "/generator")

    def __init__(self, site: Site, *, heartbeat: float | None) -> None:
        self.site = site
        self.hub = site.hub(heartbeat=heartbeat)
        self.heartbeat = heartbeat
        self.open: list[None] = []
        self.served: list[str] = []
        site.app = self.app

    async def content(self) -> AsyncIterator[str]:
        self.open.append(None)
        try:
            yield "stream-open"
            await asyncio.Event().wait()
        finally:
            self.open.pop()

    @property
    def server(self) -> Any:
        return self.site.server.servers[0].server_state

    async def late(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream when the client has left."""
        await receive()
        await until_async(lambda: not self.server.connections)
        await self.app(scope, receive, send)
        self.served.append(scope["path"])

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        kinds: dict[str, Any] = {
            "/response": lambda: self.hub.response("t"),
            "/subscription": lambda: EventSourceResponse(self.hub.subscribe("t")),
            "/generator": lambda: EventSourceResponse(self.content(), ping=self.heartbeat or 0),
        }
        await kinds[scope["path"]]()(scope, receive, send)

    def streams(self) -> int:
        return self.hub.count() + len(self.open)

    def have_come(self) -> bool:
        """Whether uvicorn has the next request of each client. It may read on: an application listens."""

        def has_next(protocol: Any) -> bool:
            is_httptools = hasattr(protocol, "pipeline")
            return bool(protocol.pipeline if is_httptools else protocol.conn.trailing_data[0])

        return all(has_next(each) for each in self.server.connections)

    def come_and_leave(self, tls: Any = None) -> None:
        """One client for each kind sends its next request and leaves; nothing is left of it."""
        clients = [self.client(path, later=1, tls=tls) for path in self.PATHS]
        until(self.have_come)
        assert self.streams() == 3
        for client in clients:
            client.close()
        until(lambda: self.streams() == 0)
        until(lambda: not self.server.connections)

    def client(self, path: str, *, at_first: int = 0, later: int = 0, tls: Any = None) -> Client:
        """A client with a stream, and so many requests behind it, sent with the first one or later."""
        more = f"\r\nGET {path} HTTP/1.1\r\nHost: x\r\n" * at_first
        client = Client(self.site.port, path, headers=more, tls=tls)
        client.read_until(b"stream-open")
        client.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * later)
        return client


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_client_leaves_that_has_sent_its_next_request(is_hidden: bool, http: str, loop: str) -> None:
    site = Site("portable", http=http, loop=loop)
    kinds = NextRequests(site, heartbeat=0.05)
    if is_hidden:
        site.app = Hidden(kinds.app)
    with quiet():
        for path in kinds.PATHS:
            for requests in ({"at_first": 1}, {"later": 1}):
                with kinds.client(path, **requests):
                    assert kinds.streams() == 1
                until(lambda: kinds.streams() == 0)
        site.close_hubs()
        site.close()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("http", "is_tls"), [("httptools", False), ("h11", False), ("h11", True)])
def test_so_does_one_that_nothing_is_written_to(http: str, is_tls: bool, loop: str, tmp_path: Path) -> None:
    # With TLS on asyncio's loop nothing is written any more, also if there is something to write.
    options, tls = {}, None
    if is_tls:
        key, certificate, tls = self_signed(tmp_path)
        options = {"ssl_keyfile": key, "ssl_certfile": certificate}
    site = Site("portable", http=http, loop=loop, **options)
    kinds = NextRequests(site, heartbeat=0.2 if is_tls else None)
    kinds.come_and_leave(tls)
    site.close_hubs()
    site.close()


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_so_does_one_behind_middleware_that_hides_it_in_a_task_of_its_own(http: str) -> None:
    site = Site("portable", http=http)
    kinds = NextRequests(site, heartbeat=None)
    site.app = BaseHTTPMiddleware(BaseHTTPMiddleware(Hidden(kinds.app), passes), passes)
    kinds.come_and_leave()
    site.close_hubs()
    site.close()


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_so_does_one_that_left_before_its_stream_began(http: str) -> None:
    site = Site("portable", http=http)
    kinds = NextRequests(site, heartbeat=None)
    site.app = kinds.late
    for path in kinds.PATHS:
        with Client(site.port, path, headers=f"\r\nGET {path} HTTP/1.1\r\nHost: x\r\n"):
            pass
    until(lambda: sorted(kinds.served) == sorted(kinds.PATHS))
    assert kinds.streams() == 0
    site.close_hubs()
    site.close()


def test_so_does_one_whose_web_socket_is_denied_with_a_stream() -> None:
    site = Site("portable", ws="wsproto")
    kinds = NextRequests(site, heartbeat=None)
    for path in kinds.PATHS:
        with Client(site.port, path, headers=WEB_SOCKET) as client:
            client.read_until(b"stream-open")
            assert kinds.streams() == 1
        until(lambda: kinds.streams() == 0)
    site.close_hubs()
    site.close()


@pytest.mark.parametrize("name", SERVERS)
def test_a_poll_beside_the_stream_that_takes_the_disconnect_keeps_nobody(name: str) -> None:
    with run(SERVERS[name]()) as server:
        for path in ("/polled/hub", "/polled/generator", "/middleware/polled/generator"):
            visit(server, path, clients=5)
            until(lambda: (found := state(server))["count"] == 0 and found["locals"] == 0)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Reasons(list[str]):
    """Why the subscribers of a hub were gone."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        hub.on_disconnect(lambda _, reason: self.append(reason))


async def leave(response: Any, first: bytes) -> None:
    """A client that leaves once it has something."""
    connection = Connection()
    task = connection.start(response)
    await connection.until(first)
    connection.left.set()
    await done(task)


async def test_a_streaming_response_ends_its_subscription_at_once() -> None:
    hub = Hub()
    reasons = Reasons(hub)
    with no_garbage_collection():
        for _ in range(5):
            await leave(StreamingResponse(hub.subscribe("t")), b"stream-open")
        await until_async(lambda: len(reasons) == 5)
    assert hub.count() == 0
    assert reasons == ["client"] * 5


async def test_so_does_a_client_that_leaves_while_it_is_sent_to() -> None:
    hub = Hub()
    reasons = Reasons(hub)
    connection = Connection()
    stuck = asyncio.Event()

    async def on_body(chunk: bytes) -> None:
        if b"stuck" in chunk:
            stuck.set()
            await asyncio.Event().wait()

    connection.on_body = on_body
    with no_garbage_collection():
        task = connection.start(StreamingResponse(hub.subscribe("t")))  # type: ignore[arg-type]
        await connection.until(b"stream-open")
        hub.publish("t", raw_data="stuck")
        await stuck.wait()
        connection.left.set()
        await done(task)
        await until_async(lambda: reasons == ["client"])
    assert hub.count() == 0


@pytest.mark.parametrize("response", [EventSourceResponse, StreamingResponse])
async def test_so_does_a_generator_that_names_its_subscription(response: type) -> None:
    hub = Hub()
    reasons = Reasons(hub)

    async def events() -> AsyncIterator[bytes]:
        subscription = hub.subscribe("t")
        async for chunk in subscription:
            yield chunk

    with no_garbage_collection():
        await leave(response(events()), b"stream-open")
        await until_async(lambda: reasons == ["client"])
    assert hub.count() == 0


async def opened(hub: Hub) -> Subscription:
    subscription = hub.subscribe("t")
    await anext(subscription)
    return subscription


async def test_a_timeout_around_anext_ends_nothing() -> None:
    hub = Hub()
    subscription = await opened(hub)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(subscription), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(subscription)
    hub.publish("t", 1)
    assert b"data: 1" in await asyncio.wait_for(anext(subscription), 10)
    assert subscription.closed is None


async def test_a_timeout_around_a_loop_ends_nothing_while_its_task_goes_on() -> None:
    hub = Hub()
    subscription = await opened(hub)
    for n in range(3):
        hub.publish("t", n)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE) as limit:
                async for chunk in subscription:
                    assert b"data: %d" % n in chunk
                    limit.reschedule(0)  # it has the event, and waits for the next one when the time is over
            raise AssertionError("the loop came to an end")
    assert subscription.closed is None
    assert hub.count() == 1


async def test_a_loop_that_is_left_by_break_or_its_own_error_goes_on_elsewhere() -> None:
    hub = Hub()
    subscription = await opened(hub)

    async def first() -> bytes:
        async for chunk in subscription:
            return chunk
        raise AssertionError

    for n in range(3):
        hub.publish("t", n)
        assert b"data: %d" % n in await asyncio.create_task(first())
    assert subscription.closed is None


async def test_a_cancelled_loop_goes_on_if_another_task_reads() -> None:
    hub = Hub()
    subscription = await opened(hub)
    seen: list[bytes] = []

    async def read() -> None:
        async for chunk in subscription:
            seen.append(chunk)

    async def read_on(first: asyncio.Task[None]) -> None:
        await asyncio.wait([first])
        await read()

    first = asyncio.create_task(read())
    await asyncio.sleep(0)
    second = asyncio.create_task(read_on(first))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    hub.publish("t", 1)
    await until_async(lambda: len(seen) == 1)
    assert subscription.closed is None
    second.cancel()
    await asyncio.wait([second])
    await until_async(lambda: subscription.closed == "client")


@pytest.mark.parametrize("ends", ["left", "failed", "complete"])
async def test_an_event_source_response_leaves_no_cycle(ends: str) -> None:
    class Local:
        pass

    alive: list[weakref.ref[Any]] = []

    async def events() -> AsyncIterator[str]:
        local = Local()
        alive.append(weakref.ref(local))
        yield "tick"
        if ends == "left":
            await asyncio.Event().wait()
        if ends == "failed":
            raise ValueError("failed")

    async def respond() -> None:
        response = EventSourceResponse(events())
        alive.append(weakref.ref(response))
        if ends == "left":
            await leave(response, b"tick")
        elif ends == "failed":
            with pytest.raises(ValueError, match="failed"):
                await Connection().run(response)
        else:
            await Connection().run(response)

    with no_garbage_collection():
        await respond()
        await until_async(lambda: [ref() for ref in alive] == [None, None])
