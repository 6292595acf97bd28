"""`hub.response`, `endpoint` and plain `StreamingResponse` in FastAPI and Starlette, also over sockets."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import time
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from loops import LOOPS
from servers import Client, ThreadServer
from sse_hub import Hub, HubResponse
from sse_hub.runs import RunResponse
from sse_hub.testing import connect
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from waiting import PATIENCE


async def test_headers_of_a_stream() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t", headers={"X-Mine": "1"}), "/") as client:
        assert dict(client.headers) == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-mine": "1",
        }
    async with connect(
        hub.endpoint("t", headers={"Cache-Control": "private"}, status_code=201), "/"
    ) as client:
        assert client.headers["cache-control"] == "private"
        assert client.status_code == 201


async def test_nothing_is_subscribed_until_the_response_is_sent() -> None:
    hub = Hub()
    response = hub.response("t")
    assert isinstance(response, HubResponse)
    assert hub.count() == 0
    async with connect(response, "/"):
        assert hub.count() == 1
    async with connect(response, "/"), connect(response, "/"):
        assert hub.count() == 2
    assert hub.count() == 0


@pytest.mark.parametrize("response_class", [HubResponse, RunResponse])
def test_fastapi_describes_a_route_with_this_response_class(response_class: type[Response]) -> None:
    app = FastAPI()
    hub = Hub()

    @app.get("/events", response_class=response_class)
    async def events() -> Response:
        return hub.response("t")

    answer = app.openapi()["paths"]["/events"]["get"]["responses"]["200"]
    assert answer["content"] == {"text/event-stream": {"schema": {"type": "string"}}}


@pytest.mark.parametrize("made", [HubResponse, RunResponse, Hub().channel("t", halt=int).response_class])
@pytest.mark.parametrize(("returned", "named"), [(None, "None: return is missing"), ({"gold": 1}, "dict")])
async def test_an_endpoint_of_this_class_is_told_what_to_return(made: Any, returned: Any, named: str) -> None:
    app = FastAPI()
    app.get("/", response_class=made)(lambda: returned)
    with pytest.raises(TypeError, match=rf"returns .*(response|follow)\(.*\), not {named}$"):
        async with connect(app, "/") as client:
            assert client.status_code == 500


async def test_a_head_request_gets_the_headers_and_no_subscriber() -> None:
    hub = Hub()
    hub.on_connect(lambda subscription: pytest.fail("subscribed"))
    done: list[int] = []
    response = hub.response("t", background=BackgroundTask(done.append, 1))
    async with connect(response, "/", method="HEAD") as client:
        assert client.headers["content-type"].startswith("text/event-stream")
        assert await client.rest() == []
    assert done == [1]


async def test_a_websocket_that_is_denied_with_it_gets_the_response() -> None:
    hub = Hub()
    sent: list[Any] = []
    left = asyncio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "websocket.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [], "extensions": {"websocket.http.response": {}}}
    denied = asyncio.create_task(hub.response("t")(scope, receive, send))
    async with asyncio.timeout(PATIENCE):
        while len(sent) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await hub.aclose()
        await denied
    assert {message["type"] for message in sent} == {
        "websocket.http.response.start",
        "websocket.http.response.body",
    }
    assert sent[0]["status"] == 200
    assert b"stream-open" in sent[1]["body"]


async def test_a_stream_that_cannot_leave_says_why() -> None:
    hub = Hub()
    async with connect(hub.response("t"), "/", control=True) as client:
        assert (await client.next()).event == "stream-open"
    (reason,) = hub.stats()["stayed"]
    assert (reason == "platform") is (sys.platform == "win32")  # where `make test-windows` runs this


async def test_user_info_and_topics_of_a_request() -> None:
    hub = Hub()
    app = FastAPI()

    def user(name: str) -> str:
        if name == "eve":
            raise HTTPException(403)
        return name

    @app.get("/events")
    async def events(name: str = Depends(user)) -> HubResponse:
        return hub.response([f"user:{name}", "news"], user=name, info={"from": "here"})

    async with connect(app, "/events?name=ann") as client:
        (subscriber,) = hub.subscribers("user:ann")
        assert (subscriber.user, subscriber.info) == ("ann", {"from": "here"})
        hub.publish("user:ann", "hi")
        assert (await client.next()).json() == "hi"
    async with connect(app, "/events?name=eve") as client:
        assert client.status_code == 403
        assert await client.read() == b'{"detail":"Forbidden"}'


@pytest.mark.parametrize(
    "topics",
    [
        "a",
        ["a", "b"],
        lambda request: request.query_params["t"],
        lambda request: ["a", request.path_params["x"]],
    ],
)
async def test_an_endpoint_for_a_starlette_route(topics: Any) -> None:
    hub = Hub()
    app = Starlette(routes=[Route("/{x}", hub.endpoint(topics, replay="all"))])
    hub.publish("a", 1)
    async with connect(app, "/b?t=a") as client:
        assert (await client.next()).json() == 1
    async with connect(app, "/b?t=a", method="POST") as client:
        assert client.status_code in (200, 405)


async def test_an_endpoint_reads_an_iterator_of_topics_once_for_all_its_clients() -> None:
    hub = Hub()
    endpoint = hub.endpoint(topic for topic in ("a", "b"))
    async with connect(endpoint, "/") as first, connect(endpoint, "/") as second:
        assert [subscriber.topics for subscriber in hub.subscribers()] == [("a", "b")] * 2
        hub.publish("b", 1)
        assert [(await client.next()).json() for client in (first, second)] == [1, 1]


async def test_an_endpoints_topics_may_be_awaited() -> None:
    hub = Hub()

    async def topics(request: Request) -> list[str]:
        await asyncio.sleep(0)
        return [request.query_params["t"]]

    async with connect(hub.endpoint(topics), "/?t=a") as client:
        hub.publish("a", 1)
        assert (await client.next()).json() == 1
    with pytest.raises(ValueError, match="patterns"):
        await connect(hub.endpoint(topics), "/?t=*")


async def test_a_subscription_streams_through_a_plain_streaming_response() -> None:
    hub = Hub()
    app = FastAPI()

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(hub.subscribe("t"), media_type="text/event-stream")

    async with connect(app, "/events") as client:
        hub.publish("t", 1)
        assert (await client.next()).json() == 1
        assert hub.count() == 1
    # Starlette cancels the response, and the exception's frames keep the subscription in a cycle.
    gc.collect()
    assert hub.count() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_def_endpoints_stream_too(loop: str) -> None:
    """FastAPI runs them in worker threads."""
    hub = Hub()
    came: list[str] = []
    hub.on_connect(lambda subscription: came.append(subscription.id))
    app = FastAPI()

    @app.get("/response")
    def response() -> HubResponse:
        return hub.response("t")

    @app.get("/subscribe")
    def subscribe() -> StreamingResponse:
        return StreamingResponse(hub.subscribe("t"), media_type="text/event-stream")

    @app.post("/push")
    def push(payload: dict[str, int]) -> int:
        hub.publish("t", payload)
        return hub.count()

    with ThreadServer(app, loop=loop) as server:
        with Client(server.port, "/subscribe") as one, Client(server.port, "/response") as other:
            one.read_until(b"stream-open")
            other.read_until(b"stream-open")
            pushed = httpx.post(f"http://127.0.0.1:{server.port}/push", json={"n": 1}, trust_env=False)
            assert pushed.json() == 2
            one.read_until(b'data: {"n":1}\n\n')
            other.read_until(b'data: {"n":1}\n\n')
        assert len(came) == 2


def test_three_servers_in_one_process_share_a_hub() -> None:
    hub = Hub(handoff=False)
    app = Starlette(routes=[Route("/", hub.endpoint("t"))])
    servers = [ThreadServer(app) for _ in range(3)]
    clients = [Client(server.port, "/") for server in servers]
    for client in clients:
        client.read_until(b"stream-open")
    for n in range(100):
        hub.publish("t", n)
    wires = [client.read_until(b"data: 99\n") for client in clients]
    assert (
        len(
            {
                tuple(re.findall(rb"id: (\S+)\nevent: |id: (\S+)\ndata: (\d+)\n", wire)[-100:])
                for wire in wires
            }
        )
        == 1
    )
    assert hub.stats()["readers"] == 3
    for client in clients:
        client.close()
    for server in servers:
        server.__exit__(None, None, None)


class Nothing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


@pytest.mark.parametrize(
    ("how", "middleware"),
    [
        ("overflow", False),
        ("overflow", True),
        ("stall", False),
        ("stall", True),
        ("kick", False),
        ("max_age", True),
    ],
)
def test_a_client_that_stopped_reading_loses_its_connection(how: str, middleware: bool) -> None:
    options: dict[str, Any] = {"overflow": {"capacity": 8}, "stall": {}}.get(how, {})
    # The kick has to come before a busy machine lets the client stall.
    stall_timeout = 6.0 if how == "kick" else 1.5
    options = {"capacity": 10_000, "capacity_bytes": 2**30, **options}
    hub = Hub(stall_timeout=stall_timeout, heartbeat=None, **options)
    gone = threading.Event()
    hub.on_disconnect(lambda subscription, reason: gone.set())
    max_age = 1.0 if how == "max_age" else None
    routes = [Route("/", hub.endpoint("t", max_age=max_age))]
    app = Starlette(routes=routes, middleware=[Middleware(Nothing)] if middleware else [])
    with ThreadServer(app) as server, Client(server.port, "/", receive_buffer=4096) as client:
        client.read_until(b"stream-open")
        for n in range(400):
            hub.publish("t", raw_data=f"{n}" + "x" * 20_000)
            if how != "kick":
                gone.wait(0.002)
        if how == "kick":
            hub.disconnect(id=hub.subscribers()[0].id)
        assert gone.wait(PATIENCE)
        assert hub.count() == 0
        connections = server.servers[0].server_state.connections
        deadline = time.monotonic() + PATIENCE
        while connections:
            assert time.monotonic() < deadline, "the server still holds the connection"
            time.sleep(0.02)
