"""What the module that hubs serve makes of a hub's stream, in a real Chromium."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import browser_app
import pytest
from browser_support import Proxy, Server, TopicPage, running
from playwright.sync_api import Page
from waiting import PATIENCE

APP = browser_app.__file__
numbers = itertools.count()

# Opens a connection and writes down what it hears; `reset()` loads the state once the test lets it.
LISTEN = """async ([url, topic, options]) => {
  const { connect } = await import("/sse-hub.js");
  window.seen = [];
  window.may = new Promise((resolve) => (window.let = resolve));
  const reset = async () => {
    seen.push("(reset)");
    await may;
    const { items, id } = await (await fetch("/state?topic=" + topic)).json();
    seen.push(...items);
    return id;
  };
  window.connection = connect(url + "?topic=" + topic, { reset, ...options });
  connection.on("open", () => seen.push("(open)"));
  connection.on("error", () => seen.push("(error)"));
  connection.on("message", ({ data }) => seen.push(JSON.parse(data)));
  connection.closed.then(({ reason }) => seen.push(`(${reason})`));
  return new Promise((resolve) => connection.on("stream-open", () => resolve()));
}"""


class Tab(TopicPage):
    """A page with a connection to a topic."""

    def __init__(self, page: Page, server: Server, topic: str, home: str = "", **options: Any) -> None:
        super().__init__(page, server, topic)
        page.goto(home or server.url)
        self.listen(**options)

    def listen(self, **options: Any) -> None:
        self.page.evaluate(LISTEN, ["/events", self.topic, options])

    def wait(self, last: Any) -> list[Any]:
        """Everything it heard, once the last of it is ``last``; not whether it was open or failed."""
        heard = """(last) => seen.findLast((item) => item !== "(open)" && item !== "(error)") === last"""
        self.page.wait_for_function(heard, arg=last, timeout=PATIENCE * 1000)
        return [item for item in self.page.evaluate("seen") if item not in ("(open)", "(error)")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(APP) as server:
        yield server


@pytest.fixture
def topic() -> str:
    return f"client-{next(numbers)}"


def test_it_comes_back_with_its_id(server: Server, topic: str, new_page: Callable[..., Page]) -> None:
    tab = Tab(new_page(), server, topic)
    [first] = tab.push("a")
    tab.wait("a")
    tab.push("b", "c", cut=True)
    assert tab.wait("c") == ["a", "b", "c"]
    assert tab.came_with() == [None, first]


def test_a_reset_in_the_middle(
    serve: Callable[..., Server], topic: str, new_page: Callable[..., Page]
) -> None:
    server = serve(APP)
    tab = Tab(new_page(), server, topic)
    tab.push("old")
    tab.wait("old")
    server.restart()
    tab.wait("(reset)")
    tab.push("published while the state is not loaded", "in the state and on the stream")
    tab.page.evaluate("window.let()")
    tab.wait("in the state and on the stream")
    tab.push("new")
    heard = tab.wait("new")
    assert heard == [
        "old",
        "(reset)",
        "published while the state is not loaded",
        "in the state and on the stream",
        "new",
    ]


def test_a_connection_that_breaks(
    server: Server, topic: str, new_page: Callable[..., Page], proxy_for: Callable[[Server], Proxy]
) -> None:
    proxy = proxy_for(server)
    tab = Tab(new_page(), server, topic, home=proxy.url)
    tab.push(1)
    tab.wait(1)
    proxy.cut()
    tab.push(2)
    proxy.mend()
    assert tab.wait(2) == [1, 2]


def test_offline_and_back(server: Server, topic: str, new_page: Callable[..., Page]) -> None:
    tab = Tab(new_page(), server, topic)
    tab.push(1)
    tab.wait(1)
    tab.page.context.set_offline(True)
    tab.page.wait_for_function('seen.at(-1) === "(error)"', timeout=PATIENCE * 1000)
    tab.push(2, 3)
    tab.page.context.set_offline(False)
    assert tab.wait(3) == [1, 2, 3]


@pytest.mark.parametrize("keep", [True, False])
def test_a_reload(server: Server, topic: str, new_page: Callable[..., Page], keep: bool) -> None:
    tab = Tab(new_page(), server, topic, keep=keep)
    [first] = tab.push("a")
    tab.wait("a")
    tab.page.goto("about:blank")
    tab.push("b")
    tab.page.goto(server.url)
    tab.listen(keep=keep)
    tab.push("c")
    assert tab.wait("c") == (["b", "c"] if keep else ["c"])
    assert tab.came_with() == [None, first if keep else None]


def test_a_page_that_closes_it_is_gone(server: Server, topic: str, new_page: Callable[..., Page]) -> None:
    tab = Tab(new_page(), server, topic)
    tab.page.evaluate("connection.close()")
    assert tab.wait("(closed)") == ["(closed)"]
    tab.push("nobody hears it")
    assert tab.page.evaluate("fetch('/state?topic=').then(() => seen.length)") == 2
