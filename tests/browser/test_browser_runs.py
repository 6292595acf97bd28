"""Chromium's EventSource watches runs at two workers, over files and over Redis.

Reloads, three tabs, a stop, a source that fails, a broken line, a page that never closes its source, and the
death of the worker that drives the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from browser_support import Proxy
from clients_app import WORDS
from file_server import FileServer
from playwright.sync_api import Page
from redis_server import RedisServer
from servers import ServerProcess, run, uvicorn
from waiting import PATIENCE

SAID = "".join(WORDS[:3])
WHOLE = "".join(WORDS)
DONE = {"state": "done"}


class Site:
    """Two workers, the first of which drives the runs, and a line to the second."""

    def __init__(self, workers: list[ServerProcess]) -> None:
        self.workers = workers
        self.urls = [f"http://127.0.0.1:{worker.port}" for worker in workers]
        # A connection for each request: a worker closes one that was idle, perhaps as a request comes.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(trust_env=False, limits=limits, timeout=PATIENCE)

    def begin(self, id: str) -> None:
        with self.http.stream("POST", f"{self.urls[0]}/sse/{id}") as response:
            response.raise_for_status()

    def release(self, id: str, query: str = f"words={len(WORDS)}") -> None:
        self.http.put(f"{self.urls[0]}/run/{id}?{query}").raise_for_status()

    def came_with(self, id: str, worker: int = 1) -> Any:
        """The Last-Event-ID of each request of a browser for a run."""
        return self.http.get(f"{self.urls[worker]}/run/{id}").json()

    def line(self, stack: ExitStack, worker: int) -> Proxy:
        line = Proxy(self.workers[worker].port)
        stack.callback(line.close)
        return line


@pytest.fixture(scope="module")
def sites() -> Iterator[dict[str, Site]]:
    with ExitStack() as stack:
        stores = {"file": FileServer(), "redis": RedisServer()}
        commands = []
        for store in stores.values():
            stack.enter_context(store)
            for _ in range(2):
                commands.append(uvicorn("clients_app:app", "--no-access-log"))
                commands[-1].env["SSE_HUB_URL"] = store.url
        with ThreadPoolExecutor() as pool:
            started = list(pool.map(lambda command: stack.enter_context(run(command)), commands))
        sites = {name: Site(started[2 * at : 2 * at + 2]) for at, name in enumerate(stores)}
        for site in sites.values():
            stack.callback(site.http.close)
        yield sites


@pytest.fixture
def site(sites: dict[str, Site]) -> Site:
    return sites["file"]


@pytest.fixture
def tab(new_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open a tab, which has what a run has said."""
    tabs: list[Page] = []

    def open_tab(url: str, id: str, query: str = "") -> Page:
        tabs.append(tabs[0].context.new_page() if tabs else new_page())
        tabs[-1].goto(f"{url}/page{query}#{id}")
        return says(tabs[-1], SAID)

    return open_tab


def says(page: Page, text: str) -> Page:
    page.wait_for_function("expected => text.length >= expected.length", arg=text, timeout=PATIENCE * 1000)
    assert page.evaluate("[text, end]") == [text, None]
    return page


def ended(page: Page) -> Any:
    """All the text of a page, and the end that it was told."""
    page.wait_for_function("end !== null && source.readyState === 2", timeout=PATIENCE * 1000)
    return page.evaluate("[text, end]")


def test_every_tab_sees_all_of_a_run_and_its_end(site: Site, tab: Callable[..., Page]) -> None:
    for id in ("done", "stop", "fail"):
        site.begin(id)
    tabs = [tab(site.urls[worker], "done") for worker in (0, 1, 1)]
    tabs[1].reload()
    says(tabs[1], SAID)
    site.release("done")
    for one in tabs:
        assert ended(one) == [WHOLE, DONE]
    tabs[2].reload()
    assert ended(tabs[2]) == [WHOLE, DONE]

    tabs = [tab(url, "stop") for url in site.urls]
    assert site.http.delete(f"{site.urls[1]}/run/stop").json() is True
    for one in tabs:
        assert ended(one) == [SAID, {"state": "stopped"}]

    tabs = [tab(url, "fail") for url in site.urls]
    site.release("fail", "fail")
    for one in tabs:
        assert ended(one) == [SAID, {"state": "failed", "error": "sorry: RuntimeError"}]


def test_a_browser_stops_although_its_page_never_closes_the_source(
    site: Site, tab: Callable[..., Page]
) -> None:
    site.begin("endless")
    page = tab(site.urls[1], "endless", "?never-closes")
    site.release("endless")
    assert ended(page) == [WHOLE, DONE]
    assert page.evaluate("opened") == 1, "its second request is answered with 204"
    assert site.came_with("endless") == [None, page.evaluate("ids.at(-1)")]


def test_a_browser_whose_line_breaks_goes_on_at_another_worker(site: Site, tab: Callable[..., Page]) -> None:
    site.begin("cut")
    with ExitStack() as stack:
        line = site.line(stack, 0)
        page = tab(line.url, "cut")
        line.stop_at = b'data: "tim'  # in the midst of the fourth word
        site.release("cut")
        assert line.stopped.wait(PATIENCE)
        line.cut()
        says(page, SAID)
        line.target = site.workers[1].port
        line.mend()
        assert ended(page) == [WHOLE, DONE]
        ids = page.evaluate("ids")
        assert (page.evaluate("opened"), len(ids)) == (2, len(WORDS) + 1)
        assert (site.came_with("cut", 0), site.came_with("cut")) == ([None], [ids[2]])


def test_every_tab_is_told_when_the_worker_of_its_run_dies(
    sites: dict[str, Site], tab: Callable[..., Page]
) -> None:
    """The last test: it ends the first workers. The tabs of these find another one behind their address."""
    with ExitStack() as stack:
        lines, tabs = [], []
        for site in sites.values():
            site.begin("lost")
            lines.append(site.line(stack, 0))
            tabs.append([tab(url, "lost") for url in (lines[-1].url, site.urls[1], site.urls[1])])
        for site, line in zip(sites.values(), lines, strict=True):
            line.target = site.workers[1].port
            site.workers[0].kill()
        for site, (own, *others) in zip(sites.values(), tabs, strict=True):
            for page in (own, *others):
                assert ended(page) == [SAID, {"state": "lost"}]
            assert [page.evaluate("opened") for page in (own, *others)] == [2, 1, 1]
            assert own.evaluate("ids[2]") in site.came_with("lost")
            others[0].reload()
            assert ended(others[0]) == [SAID, {"state": "lost"}]
