"""One connection for all tabs of an origin, in a real Chromium."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import browser_app
import pytest
from browser_support import Server, running
from playwright.sync_api import BrowserContext, Error, Page
from waiting import PATIENCE, until

APP = browser_app.__file__
numbers = itertools.count()

LISTEN = """async ([topic, options]) => {
  const { connect } = await import("/sse-hub.js");
  window.seen = [];
  const reset = async () => {
    const { items, id } = await (await fetch("/state?topic=" + topic)).json();
    seen.push("(reset)", ...items);
    return id;
  };
  window.connection = connect("/events?topic=" + topic, { share: true, reset, ...options });
  connection.on("message", ({ data }) => seen.push(JSON.parse(data)));
  connection.closed.then(({ reason }) => seen.push(`(${reason})`));
}"""


class Tabs:
    """Tabs of one browser profile that share a stream. The first one leads."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.context = context
        self.server = server
        self.topic = f"shared-{next(numbers)}"
        self.pages: list[Page] = []

    def open(self, count: int = 1, **options: Any) -> Page:
        """Open tabs; returns the last one, once it is where the stream is."""
        for _ in range(count):
            page = self.context.new_page()
            page.goto(self.server.url)
            page.evaluate(LISTEN, [self.topic, options])
            page.wait_for_function("connection.lastEventId", timeout=PATIENCE * 1000)
            self.pages.append(page)
        return page

    def push(self, *items: Any, **options: Any) -> list[str]:
        ids: list[str] = self.server.post("/push", {"items": items, "topic": self.topic, **options})
        return ids

    def streams(self) -> int:
        return int(self.server.http.get("/count", params={"topic": self.topic}).json())

    def seen(self, last: Any) -> list[list[Any]]:
        """What each tab has seen, once the last of it is ``last``."""
        for page in self.pages:
            page.wait_for_function("(last) => seen.at(-1) === last", arg=last, timeout=PATIENCE * 1000)
        return [page.evaluate("seen") for page in self.pages]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(APP) as server:
        yield server


@pytest.fixture
def context(new_page: Callable[..., Page]) -> BrowserContext:
    return new_page().context


@pytest.fixture
def tabs(context: BrowserContext, server: Server) -> Tabs:
    return Tabs(context, server)


def test_twelve_tabs_have_one_stream(tabs: Tabs) -> None:
    tabs.open(12)
    tabs.push(1, 2, 3)
    assert tabs.seen(3) == [[1, 2, 3]] * 12
    assert tabs.streams() == 1


def test_another_tab_leads_when_the_leader_is_gone(tabs: Tabs) -> None:
    tabs.open(4)
    for number in range(3):
        tabs.push(f"{number}, all")
        tabs.seen(f"{number}, all")
        tabs.pages.pop(0).close()
        tabs.push(f"{number}, the rest")
    everything = [f"{number}, {who}" for number in range(3) for who in ("all", "the rest")]
    assert tabs.seen(everything[-1]) == [everything]
    until(lambda: tabs.streams() == 1)


def test_another_tab_leads_when_the_leader_crashes(tabs: Tabs) -> None:
    tabs.open(3)
    tabs.push("before")
    tabs.seen("before")
    leader = tabs.pages.pop(0)
    with leader.expect_event("crash", timeout=PATIENCE * 1000), suppress(Error):
        leader.goto("chrome://crash")  # ends the page's process at once: no handler of the page runs
    tabs.push("after")
    assert tabs.seen("after") == [["before", "after"]] * 2
    until(lambda: tabs.streams() == 1)


def test_a_stream_that_breaks_is_resumed_for_all(tabs: Tabs) -> None:
    tabs.open(3)
    tabs.push("a")
    tabs.push("b", "c", cut=True)
    assert tabs.seen("c") == [["a", "b", "c"]] * 3


def test_a_tab_that_is_frozen_does_not_lead_and_catches_up(tabs: Tabs) -> None:
    tabs.open(3)
    tabs.push(1)
    tabs.seen(1)
    leader = tabs.pages.pop(0)
    life = tabs.context.new_cdp_session(leader)
    life.send("Page.setWebLifecycleState", {"state": "frozen"})
    tabs.push(2, 3)
    assert tabs.seen(3) == [[1, 2, 3]] * 2
    life.send("Page.setWebLifecycleState", {"state": "active"})
    tabs.pages.append(leader)
    tabs.push(4)
    assert tabs.seen(4) == [[1, 2, 3, 4]] * 3


def test_each_tab_has_its_own_position(tabs: Tabs) -> None:
    tabs.open()
    first, *_ = tabs.push(1, 2, 3)
    tabs.seen(3)
    tabs.open(lastEventId=first)
    tabs.pages[1].wait_for_function("seen.length === 2", timeout=PATIENCE * 1000)
    tabs.open()
    until(lambda: tabs.streams() == 1)
    tabs.push(4)
    assert tabs.seen(4) == [[1, 2, 3, 4], [2, 3, 4], [4]]
    assert tabs.streams() == 1


def test_every_tab_is_reset(context: BrowserContext, serve: Callable[..., Server]) -> None:
    server = serve(APP)
    tabs = Tabs(context, server)
    tabs.open(3)
    tabs.push("old")
    tabs.seen("old")
    server.restart()
    for page in tabs.pages:
        page.wait_for_function('seen.at(-1) === "(reset)"', timeout=PATIENCE * 1000)
    tabs.push("new")
    assert tabs.seen("new") == [["old", "(reset)", "new"]] * 3


def test_offline_and_back(tabs: Tabs) -> None:
    tabs.open(3)
    tabs.push(1)
    tabs.seen(1)
    tabs.context.set_offline(True)
    tabs.push(2)
    tabs.context.set_offline(False)
    assert tabs.seen(2) == [[1, 2]] * 3


def test_a_tab_that_closes_its_connection_lets_another_lead(tabs: Tabs) -> None:
    tabs.open(2)
    closed = tabs.pages.pop(0)
    closed.evaluate("connection.close()")
    tabs.push(1)
    assert tabs.seen(1) == [[1]]
    assert closed.evaluate("seen") == ["(closed)"]
