"""Who decides whether streams are handed off: the hub, the response, the environment, the server's limit."""

from __future__ import annotations

import re

import pytest
from servers import Client, program, run, staying, uvicorn
from sse_hub import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import until
from wire import Site, only

SITES = ("httptools",)

# The hub's option, the response's, and why the stream stays.
CHOICES = [
    (None, None, None),
    (True, None, None),
    (False, None, "option"),
    (None, False, "option"),
    (True, False, "option"),
    (False, True, None),
]


@pytest.mark.parametrize("kind", ["response", "endpoint", "subscription"])
@pytest.mark.parametrize(("of_hub", "of_response", "reason"), CHOICES)
def test_the_response_beats_the_hub(
    site: Site, kind: str, of_hub: bool | None, of_response: bool | None, reason: str | None
) -> None:
    hub = site.hub(handoff=of_hub)

    async def endpoint(request: Request) -> Response:
        if kind == "subscription":
            return EventSourceResponse(hub.subscribe("t"), handoff=of_response)
        return hub.response("t", handoff=of_response)

    site.app = Starlette(routes=[Route("/", endpoint)])
    if kind == "endpoint":
        site.app = hub.endpoint("t", handoff=of_response)
    with site.raw() as stream:
        stream.opened()
        assert only(hub).path == ("loop" if reason else "reactor")
        assert hub.stats()["stayed"] == ({reason: 1} if reason else {})


@pytest.mark.parametrize("value", ["0", "false", "No"])
def test_the_environment_beats_both(site: Site, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSE_HUB_HANDOFF", value)
    hub = site.hub(handoff=True)
    site.app = hub.endpoint("t", handoff=True)
    with site.raw() as stream:
        stream.opened()
        assert only(hub).path == "loop"
        assert hub.stats()["stayed"] == {"environment": 1}


def test_a_variable_that_is_set_to_nothing_turns_nothing_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSE_HUB_HANDOFF", "")
    hub = site.hub()
    site.app = hub.endpoint("t")
    with site.raw() as stream:
        stream.opened()
        assert only(hub).path == "reactor"


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_server_that_limits_its_connections_keeps_streams_unless_asked(http: str) -> None:
    site = Site("httptools", http=http, limit_concurrency=100)
    for handoff, path, stayed in [(None, "loop", {"limit_concurrency": 1}), (True, "reactor", {})]:
        hub = site.hub(handoff=handoff)
        site.app = hub.endpoint("t")
        with site.raw() as stream:
            stream.opened()
            assert only(hub).path == path
            assert hub.stats()["stayed"] == stayed
        until(lambda hub=hub: hub.count() == 0)
    site.close_hubs()
    site.close()


def test_what_stays_is_counted_by_reason(site: Site) -> None:
    hub = site.hub()

    async def endpoint(request: Request) -> Response:
        return EventSourceResponse(hub.subscribe("t"), ping=60)

    site.app = hub.endpoint("t", status_code=201)
    with Client(site.port, "/") as client:
        client.read_until(b"stream-open")
    site.app = Starlette(routes=[Route("/", endpoint)])
    for _ in range(2):
        with site.raw() as stream:
            stream.opened()
    assert hub.stats()["stayed"] == {"status": 1, "content": 2}


SAYS = """
import logging
import uvicorn
from sse_hub import Hub

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
hubs = [Hub(handoff={first}), Hub()]
apps = [hub.endpoint("t") for hub in hubs]

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("lifespan started", flush=True)
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        return await send({{"type": "lifespan.shutdown.complete"}})
    await apps[scope["path"] == "/second"](scope, receive, send)

uvicorn.run(app, port=0, log_config=None)
"""


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ("None", "INFO sse_hub streams are handed off: a thread of sse_hub writes them, not the server\n"),
        (
            "False",
            "INFO sse_hub a stream stays with the server: handoff=False was given; see docs/hand-off.md\n",
        ),
    ],
)
def test_one_line_of_the_log_says_what_became_of_the_first(first: str, line: str) -> None:
    with run(program(SAYS.format(first=first))) as server:
        for path in ("/first", "/second", "/first", "/second"):
            with Client(server.port, path) as client:
                client.read_until(b"stream-open")
        server.terminate()
        server.wait()
        assert re.findall(r".* sse_hub .*\n", server.output) == [line]


def test_a_command_may_turn_it_off() -> None:
    with run(staying(uvicorn("reactor_app:app"))) as server, Client(server.port, "/events") as client:
        client.read_until(b"stream-open")
        with Client(server.port, "/publish?data=x") as other:
            other.read_until(b"published to loop.")
