"""``hub.endpoint``: which requests get a stream, and which options it accepts."""

from __future__ import annotations

import time
from typing import Any

import pytest
from servers import WEB_SOCKET, Client, ThreadServer, gunicorn, hypercorn, run, uvicorn
from sse_hub import EventSourceResponse, Hub
from sse_hub.hub import StreamOptions
from sse_hub.testing import connect
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("routed", [True, False])
async def test_other_methods_are_answered_with_405(method: str, routed: bool) -> None:
    hub = Hub()
    endpoint = hub.endpoint("t")
    app: Any = Starlette(routes=[Route("/", endpoint)]) if routed else endpoint
    async with connect(app, "/", method=method) as client:
        assert client.status_code == 405
        assert client.headers["allow"] == "GET, HEAD"
    assert hub.count() == 0


@pytest.mark.parametrize("mounted", [True, False])
async def test_get_and_head_are_served(mounted: bool) -> None:
    endpoint = Hub().endpoint("t")
    app = Starlette(routes=[Mount("/", endpoint) if mounted else Route("/", endpoint)])
    async with connect(app, "/", control=True) as client:
        assert (await client.next()).event == "stream-open"
    async with connect(app, "/", method="HEAD") as client:
        assert client.status_code == 200
        assert await client.read() == b""


def test_a_web_socket_is_refused() -> None:
    hub = Hub()
    app = Starlette(routes=[Mount("/", hub.endpoint("t"))])
    with ThreadServer(app, ws="wsproto") as server, Client(server.port, "/", headers=WEB_SOCKET) as client:
        assert client.read_until(b"\r\n").startswith(b"HTTP/1.1 403 ")
    assert hub.stats()["connected"] == 0


async def test_methods_are_an_option() -> None:
    app = Starlette(routes=[Route("/", Hub().endpoint("t", methods=["post"]))])
    async with connect(app, "/", method="POST", control=True) as client:
        assert (await client.next()).event == "stream-open"
    async with connect(app, "/") as client:
        assert client.status_code == 405
        assert client.headers["allow"] == "POST"


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_options_come_from_the_request(kind: str) -> None:
    hub = Hub()

    def options(request: Request) -> StreamOptions:
        query = request.query_params
        return {"user": query["user"], "expires": float(query["expires"])}

    async def options_later(request: Request) -> StreamOptions:
        return options(request)

    endpoint = hub.endpoint("t", user="nobody", per_request=options if kind == "def" else options_later)
    until = time.time() + 60
    async with connect(endpoint, f"/?user=ann&expires={until}"):
        (ann,) = hub.subscribers()
        assert ann.user == "ann"
    async with connect(endpoint, f"/?user=ann&expires={until - 90}") as client:
        assert client.status_code == 401
    with pytest.raises(
        TypeError, match=r"endpoint\(per_request=…\) takes a function, def or async, not dict"
    ):
        hub.endpoint("t", per_request={"user": "ann"})  # type: ignore[arg-type]


async def test_the_application_words_the_refusal() -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"why": error.detail}, error.status_code, error.headers)

    routes = [Route("/", Hub().endpoint("t"))]
    app = Starlette(routes=routes, exception_handlers={405: refused})
    async with connect(app, "/", method="POST") as client:
        assert await client.read() == b'{"why":"Method Not Allowed"}'
        assert client.headers["allow"] == "GET, HEAD"


def test_an_option_that_does_not_exist_is_refused_by_its_name() -> None:
    hub = Hub()
    for call in (hub.subscribe, hub.response, hub.endpoint):
        with pytest.raises(
            TypeError, match=r"unexpected keyword argument 'capcity'\. Did you mean 'capacity'\?"
        ):
            call("t", capcity=1)  # type: ignore[operator]


@pytest.mark.parametrize("headers", ["x", 7, [("a", "b")]])
def test_headers_that_are_no_mapping_are_refused_clearly(headers: Any) -> None:
    with pytest.raises(TypeError, match="headers is a mapping"):
        EventSourceResponse([], headers=headers)
    with pytest.raises(TypeError, match="headers is a mapping"):
        Hub().response("t", headers=headers)


SEVERAL = {
    "uvicorn": lambda: uvicorn("leaving_app:app", "--workers", "2", processes=2),
    "gunicorn": lambda: gunicorn("leaving_app:app", processes=2),
    "hypercorn": lambda: hypercorn("leaving_app:app", "--workers", "2"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_hub_without_a_broker_in_several_workers_is_warned_of(name: str) -> None:
    with run(SEVERAL[name]()) as server, Client(server.port, "/polled/hub") as client:
        client.read_until(b"stream-open")
        server.wait_for("has no broker, so in each of the server's 2 workers")


def test_one_worker_is_not() -> None:
    with run(gunicorn("leaving_app:app")) as server, Client(server.port, "/polled/hub") as client:
        client.read_until(b"stream-open")
        assert "broker" not in server.output
