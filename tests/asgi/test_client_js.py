"""The module for browsers, as a hub serves it."""

from __future__ import annotations

import httpx
import pytest
from live import serve
from pages import ROOT
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

MODULE = (ROOT / "python/sse_hub/_client/sse-hub.min.js").read_bytes()
hub = Hub()


async def returned(request: Request):
    return hub.client_js()


@pytest.fixture(scope="module")
def http():
    app = Starlette(routes=[Route("/mounted.js", hub.client_js()), Route("/returned.js", returned)])
    with serve(app) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/mounted.js", "/returned.js"])
def test_it_is_a_module_that_browsers_ask_for_again(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.content == MODULE
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    tag = answer.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = http.get(path, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in again.headers
    assert http.get(path, headers={"If-None-Match": '"other"'}).content == MODULE


def test_a_url_with_the_version_is_kept(http: httpx.Client) -> None:
    version = hub.client_js().version
    current = http.get(f"/mounted.js?v={version}")
    assert current.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert current.headers["etag"] == f'"{version}"'
    old = http.get("/mounted.js?v=0123456789abcdef")
    assert (old.content, old.headers["cache-control"]) == (MODULE, "no-cache"), "not what the URL names"


def test_head_has_no_body(http: httpx.Client) -> None:
    answer = http.head("/mounted.js")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(MODULE))
