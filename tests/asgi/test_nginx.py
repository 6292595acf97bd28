"""The nginx configuration of docs/operations.md, word for word, in a real nginx before a real uvicorn."""

from __future__ import annotations

import getpass
import os
import queue
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from live import Events, serve
from pages import ROOT
from sse_hub import Hub, HubResponse
from waiting import PATIENCE, until

PAGE = ROOT / "docs" / "operations.md"
READ_TIMEOUT = 3  # seconds, in nginx's main configuration; the location does not set its own

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {prefix}/nginx.pid;
error_log stderr notice;
worker_shutdown_timeout 1s;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    proxy_read_timeout {read_timeout}s;
    gzip on;
    gzip_types text/event-stream;
    server {{
        listen unix:{prefix}/nginx.sock;
        {location}
    }}
}}
"""


# uvicorn's options: through the server; handed off; handed off from a Unix socket.
WAYS: dict[str, dict[str, str]] = {
    "portable": {},
    "handed-off": {},
    "handed-off-uds": {"uds": "uvicorn.sock"},
}

# For what takes seconds, and is the same on any kind of socket.
each_path = pytest.mark.parametrize("site", ["portable", "handed-off"], indirect=True)


def recommended(upstream: str) -> str:
    """What the page recommends, for an upstream there."""
    _, _, rest = PAGE.read_text().partition("```nginx\n")
    location, fence, _ = rest.partition("```")
    assert fence, "the page has no nginx block"
    assert location.count("127.0.0.1:8000") == 1
    return location.replace("http://127.0.0.1:8000", upstream)


@dataclass
class Site:
    """An app with a hub behind nginx."""

    path: str  # which way its streams go
    hub: Hub = field(init=False)
    quiet: Hub = field(init=False)
    app: FastAPI = field(default_factory=FastAPI)
    requests: queue.Queue[Request] = field(default_factory=queue.Queue)
    left: queue.Queue[str] = field(default_factory=queue.Queue)
    nginx: subprocess.Popen[str] | None = None
    http: httpx.Client = field(default_factory=httpx.Client)

    def __post_init__(self) -> None:
        handoff = self.path == "reactor"
        self.hub = Hub(heartbeat=0.2, handoff=handoff)
        self.quiet = Hub(heartbeat=None, handoff=handoff)

        @self.app.get("/events")
        async def events(request: Request) -> HubResponse:
            self.requests.put(request)
            return self.hub.response("t")

        @self.app.get("/events/quiet")
        async def quiet() -> HubResponse:
            return self.quiet.response("t")

        @self.hub.on_disconnect
        def gone(_: object, reason: str) -> None:
            self.left.put(reason)

    @contextmanager
    def stream(self, path: str = "/events", **headers: str) -> Iterator[Events]:
        with self.http.stream("GET", f"http://shop.example{path}", headers=headers) as response:
            assert response.status_code == 200
            yield Events(response)


def wait_for_log(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"nginx ended without {text!r}:\n{''.join(seen)}")


@contextmanager
def nginx(prefix: Path, location: str) -> Iterator[subprocess.Popen[str]]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program, "nginx is not installed (Debian: apt-get install nginx-light)"
    # Workers of an nginx that root starts change to another user, who cannot open the test's directory.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    config = prefix / "nginx.conf"
    config.write_text(CONFIG.format(user=user, prefix=prefix, location=location, read_timeout=READ_TIMEOUT))
    arguments = [program, "-p", str(prefix), "-c", str(config), "-e", "stderr"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_log(process, "start worker process ")
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    prefix = tmp_path_factory.mktemp("nginx")
    options: dict[str, Any] = dict(WAYS[request.param])
    upstream = "http://127.0.0.1:{}"
    if "uds" in options:
        options["uds"] = str(prefix / options["uds"])
        upstream = f"http://unix:{options['uds']}:"
    site = Site(path="loop" if request.param == "portable" else "reactor")
    with (
        serve(site.app, **options) as server,
        nginx(prefix, recommended(upstream.format(server.port))) as site.nginx,
        httpx.Client(
            transport=httpx.HTTPTransport(uds=str(prefix / "nginx.sock")), timeout=PATIENCE
        ) as site.http,
    ):
        yield site


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_each_event_arrives_before_the_next_is_published(site: Site, encoding: str) -> None:
    with site.stream(**{"Accept-Encoding": encoding}) as events:
        assert events.response.headers.get("content-encoding", "identity") == encoding
        events.opened()
        for number in range(20):
            site.hub.publish("t", number)
            assert events.next().json() == number


def test_the_server_is_asked_with_http_1_1_and_learns_the_clients_address(site: Site) -> None:
    with site.stream() as events:
        events.opened()
        request = site.requests.get(timeout=PATIENCE)
        assert request.scope["http_version"] == "1.1"
        assert request.headers["host"] == "shop.example"
        assert request.headers["x-forwarded-proto"] == "http"
        assert "connection" not in request.headers or request.headers["connection"] == ""


@each_path
def test_heartbeats_keep_a_silent_stream_beyond_the_read_timeout(site: Site) -> None:
    with site.stream() as events:
        began = time.monotonic()
        lines = events.response.iter_lines()
        for line in lines:
            if line.rstrip() == ":" and time.monotonic() - began > 1.5 * READ_TIMEOUT:
                break
        else:
            raise AssertionError(f"cut after {time.monotonic() - began:.1f} s")
        site.hub.publish("t", "still here")
        assert 'data: "still here"' in lines


@each_path
def test_without_heartbeats_nginx_cuts_a_silent_stream(site: Site) -> None:
    with site.stream("/events/quiet") as events:
        events.opened()
        with pytest.raises(httpx.RemoteProtocolError):  # A cut, not an end: that is what HTTP/1.1 tells.
            events.rest()


def test_a_client_that_leaves_is_noticed(site: Site) -> None:
    with site.stream() as stays, site.stream() as events:
        stays.opened()
        events.opened()
        assert site.hub.count() == 2
        assert {subscriber.path for subscriber in site.hub.subscribers()} == {site.path}
        assert site.hub.stats()["handed_off"] == (2 if site.path == "reactor" else 0)
        events.response.close()
        assert site.left.get(timeout=PATIENCE) == "client"
        assert site.hub.count() == 1
        # A reactor reports the end, and then lets the connection go.
        until(lambda: site.hub.stats()["handed_off"] == (1 if site.path == "reactor" else 0))


def test_a_client_resumes_through_nginx(site: Site) -> None:
    with site.stream() as events:
        events.opened()
        site.hub.publish("t", 0)
        last = events.next().id
    site.left.get(timeout=PATIENCE)
    for number in range(1, 100):
        site.hub.publish("t", number)
    with site.stream(**{"Last-Event-ID": last}) as events:
        site.hub.publish("t", 100)
        assert [events.next().json() for _ in range(100)] == [*range(1, 101)]


def test_a_reload_ends_old_workers_streams_after_their_shutdown_timeout(site: Site) -> None:
    assert site.nginx is not None
    with site.stream() as events:
        last = events.opened().id
        subprocess.run(["kill", "-HUP", str(site.nginx.pid)], check=True)
        with pytest.raises(httpx.RemoteProtocolError):
            events.rest()
    site.hub.publish("t", "meanwhile")
    with site.stream(**{"Last-Event-ID": last}) as events:
        assert events.next().json() == "meanwhile"
