"""Chromium's EventSource watches runs at two workers.

Reloads, three tabs, a stop, a source that fails, and the death of the worker that drives the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from clients_app import WORDS
from file_server import FileServer
from playwright.sync_api import Page
from servers import ServerProcess, run, uvicorn
from waiting import PATIENCE

SAID = "".join(WORDS[:3])


class Site:
    """Two workers, the first of which drives the runs."""

    def __init__(self, new_page: Callable[..., Page], workers: list[ServerProcess]) -> None:
        self.new_page = new_page
        self.workers = workers
        self.urls = [f"http://127.0.0.1:{worker.port}" for worker in workers]
        # A connection for each request: a worker closes one that was idle, perhaps as a request comes.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(trust_env=False, limits=limits, timeout=PATIENCE)

    def begin(self, id: str) -> None:
        with self.http.stream("POST", f"{self.urls[0]}/sse/{id}") as response:
            response.raise_for_status()

    def release(self, id: str, query: str) -> None:
        self.http.put(f"{self.urls[0]}/run/{id}?{query}").raise_for_status()

    def tab(self, id: str, worker: int) -> Page:
        """A tab that has what was said."""
        page = self.new_page()
        page.goto(f"{self.urls[worker]}/page#{id}")
        return says(page, SAID)


def says(page: Page, text: str) -> Page:
    page.wait_for_function("expected => text.length >= expected.length", arg=text, timeout=PATIENCE * 1000)
    assert page.evaluate("[text, end]") == [text, None]
    return page


def ended(page: Page) -> Any:
    """All the text of a page, and the end that it was told."""
    page.wait_for_function("end !== null && source.readyState === 2", timeout=PATIENCE * 1000)
    return page.evaluate("[text, end]")


@pytest.fixture
def site(new_page: Callable[..., Page]) -> Iterator[Site]:
    with ExitStack() as stack:
        files = stack.enter_context(FileServer())
        commands = [uvicorn("clients_app:app", "--no-access-log") for _ in range(2)]
        for command in commands:
            command.env["SSE_HUB_URL"] = files.url
        site = Site(new_page, [stack.enter_context(run(command)) for command in commands])
        stack.callback(site.http.close)
        yield site


def test_every_tab_sees_all_of_a_run_and_its_end(site: Site) -> None:
    for id in ("done", "stop", "fail", "lost"):
        site.begin(id)
    tabs = [site.tab("done", worker) for worker in (0, 1, 1)]
    tabs[1].reload()
    says(tabs[1], SAID)
    site.release("done", f"words={len(WORDS)}")
    for tab in tabs:
        assert ended(tab) == ["".join(WORDS), {"state": "done"}]
    tabs[2].reload()
    assert ended(tabs[2]) == ["".join(WORDS), {"state": "done"}]

    tabs = [site.tab("stop", worker) for worker in (0, 1)]
    assert site.http.delete(f"{site.urls[1]}/run/stop").json() is True
    for tab in tabs:
        assert ended(tab) == [SAID, {"state": "stopped"}]

    tabs = [site.tab("fail", worker) for worker in (0, 1)]
    site.release("fail", "fail")
    for tab in tabs:
        assert ended(tab) == [SAID, {"state": "failed", "error": "sorry: RuntimeError"}]

    tabs = [site.tab("lost", 1) for _ in range(3)]
    site.workers[0].kill()
    for tab in tabs:
        assert ended(tab) == [SAID, {"state": "lost"}]
        assert tab.evaluate("opened") == 1
    tabs[0].reload()
    assert ended(tabs[0]) == [SAID, {"state": "lost"}]
