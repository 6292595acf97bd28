"""What a browser's own EventSource makes of the hub's streams."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import browser_app
import pytest
from browser_support import Proxy, Server, TopicPage, running
from playwright.sync_api import Page
from waiting import PATIENCE

APP = browser_app.__file__
NAMES = ["message", "tick", "stream-open", "stream-cursor", "stream-reset", "stream-lagged"]
numbers = itertools.count()


class Listener(TopicPage):
    """A page with an EventSource for a topic of its own, and what it has heard."""

    def __init__(
        self,
        page: Page,
        server: Server,
        *,
        home: str | None = None,
        stream: str | None = None,
        topic: str | None = None,
        more: str = "",
    ) -> None:
        super().__init__(page, server, topic or f"topic-{next(numbers)}")
        page.goto(home or server.url)
        url = f"{stream or home or server.url}/events?topic={self.topic}{more}"
        page.evaluate("([url, names]) => listen(url, names)", [url, NAMES])

    def seen(self, *names: str) -> list[dict[str, Any]]:
        """All it heard so far, or the events of these names."""
        return [entry for entry in self.page.evaluate("seen") if not names or entry["name"] in names]

    def wait(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until events of this name were heard `count` times, and return them."""
        heard = "([name, count]) => seen.filter((entry) => entry.name === name).length >= count"
        self.page.wait_for_function(heard, arg=[name, count], timeout=PATIENCE * 1000)
        return self.seen(name)

    def values(self, count: int) -> list[Any]:
        """Wait for this many messages; the data of all that came."""
        return [json.loads(entry["data"]) for entry in self.wait("message", count)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(APP) as server:
        yield server


def test_messages_arrive_in_order_with_their_ids(server: Server, new_page: Callable[..., Page]) -> None:
    page = Listener(new_page(), server)
    page.wait("stream-open")
    items = [1, "text\nof two lines\r\n", None, {"nested": ["ü", "\u2028", "🎈"]}]
    ids = page.push(*items)
    assert page.values(len(items)) == items
    assert [entry["id"] for entry in page.seen("message")] == ids


def test_a_compressed_stream_is_decoded_event_by_event(server: Server, new_page: Callable[..., Page]) -> None:
    first = Listener(new_page(), server, more="&compress=1")
    first.wait("stream-open")
    pages, published = [(first, 0)], 0

    def row(n: int) -> dict[str, Any]:
        return {"n": n, "text": "as many bytes as a row has"}

    for joins in (10, 80):
        while published < joins:
            first.push(row(published))
            published += 1
            for page, began in pages:
                page.wait("message", published - began)
        pages.append((Listener(new_page(), server, topic=first.topic, more="&compress=1"), published))
        pages[-1][0].wait("stream-open")
    first.push("last", cut=True)
    for page, began in pages:
        values = page.values(published + 1 - began)
        assert values == [*map(row, range(began, published)), "last"]


def test_a_named_event_fires_its_own_listener_only(server: Server, new_page: Callable[..., Page]) -> None:
    page = Listener(new_page(), server)
    page.wait("stream-open")
    page.push({"price": 1.5}, event="tick")
    page.push("after it")
    assert page.values(1) == ["after it"]
    assert [entry["data"] for entry in page.seen("tick")] == ['{"price":1.5}']


def test_onopen_fires_before_the_first_event_and_without_one(
    server: Server, new_page: Callable[..., Page]
) -> None:
    page = Listener(new_page(), server)
    opened = page.wait("stream-open")
    assert [entry["name"] for entry in page.seen()] == ["(open)", "stream-open"]
    assert opened[0]["data"] == ""
    assert opened[0]["id"]


@pytest.mark.parametrize("before_the_first_event", [True, False])
def test_a_stream_cut_by_the_server_resumes(
    server: Server, new_page: Callable[..., Page], before_the_first_event: bool
) -> None:
    page = Listener(new_page(), server)
    last_id = page.wait("stream-open")[0]["id"]
    first = [] if before_the_first_event else [1, 2]
    if first:
        last_id = page.push(*first)[-1]
        page.values(2)
    page.push(3, 4, cut=True)
    page.wait("stream-open", 2)
    page.push(5)
    assert page.values(len(first) + 3) == [*first, 3, 4, 5]
    assert page.seen("stream-reset") == []
    assert page.came_with() == [None, last_id]


@pytest.mark.parametrize("before_the_first_event", [True, False])
def test_a_broken_connection_resumes(
    server: Server,
    proxy_for: Callable[[Server], Proxy],
    new_page: Callable[..., Page],
    before_the_first_event: bool,
) -> None:
    proxy = proxy_for(server)
    page = Listener(new_page(), server, home=proxy.url)
    last_id = page.wait("stream-open")[0]["id"]
    first = [] if before_the_first_event else [1, 2]
    if first:
        last_id = page.push(*first)[-1]
        page.values(2)
    proxy.cut()
    page.wait("(error)")
    page.push(3, 4)
    proxy.mend()
    page.wait("stream-open", 2)
    page.push(5)
    assert page.values(len(first) + 3) == [*first, 3, 4, 5]
    assert page.seen("stream-reset") == []
    assert page.came_with() == [None, last_id]


def test_many_cuts_under_load_lose_and_double_nothing(
    server: Server, proxy_for: Callable[[Server], Proxy], new_page: Callable[..., Page]
) -> None:
    proxy = proxy_for(server)
    page = Listener(new_page(), server, home=proxy.url)
    page.wait("stream-open")
    total = 0
    for cut in range(1, 7):
        for _ in range(10):
            page.push(*range(total, total + 5))
            total += 5
        # By turns the server ends the stream, and the network breaks it.
        if cut % 2:
            page.push(total, cut=True)
        else:
            proxy.cut()
            page.push(total)
            proxy.mend()
        total += 1
        page.wait("stream-open", cut + 1)
    assert page.values(total) == list(range(total))
    assert page.seen("stream-reset") == []


def test_after_a_restart_the_stream_says_so_and_goes_on(
    serve: Callable[..., Server], new_page: Callable[..., Page]
) -> None:
    server = serve(APP)
    page = Listener(new_page(), server)
    page.wait("stream-open")
    last_id = page.push("before")[-1]
    page.values(1)
    server.restart()
    reset = json.loads(page.wait("stream-reset")[0]["data"])
    assert reset["requested"] == last_id
    assert reset["reason"]
    fresh_id = page.push("after")[-1]
    assert page.values(2) == ["before", "after"]
    assert fresh_id.partition("-")[0] != last_id.partition("-")[0]
    # With an id of the new epoch, the next cut is mended again.
    page.push("and on", cut=True)
    assert page.values(3) == ["before", "after", "and on"]
    assert len(page.seen("stream-reset")) == 1


def test_an_id_that_fell_out_of_history_is_reset(
    serve: Callable[..., Server], new_page: Callable[..., Page]
) -> None:
    server = serve(APP, HISTORY="3")
    page = Listener(new_page(), server)
    page.wait("stream-open")
    last_id = page.push(0)[-1]
    page.values(1)
    page.push(*range(1, 11), cut=True)
    assert json.loads(page.wait("stream-reset")[0]["data"])["requested"] == last_id
    page.push("live")
    page.page.wait_for_function("seen.some((entry) => entry.data === '\"live\"')")
    names = [entry["name"] for entry in page.seen("stream-open", "stream-reset")]
    assert names == ["stream-open", "stream-open", "stream-reset"]


def test_the_id_of_a_quiet_topic_moves_on(
    serve: Callable[..., Server], new_page: Callable[..., Page]
) -> None:
    server = serve(APP, HEARTBEAT="0.2")
    page = Listener(new_page(), server)
    page.wait("stream-open")
    last_id = page.push(*range(20), topic="busy")[-1]
    page.page.wait_for_function(
        "(id) => seen.some((entry) => entry.name === 'stream-cursor' && entry.id === id)", arg=last_id
    )
    page.push("at last", cut=True)
    assert page.values(1) == ["at last"]
    assert page.came_with() == [None, last_id]


def test_another_origin_is_let_in_by_cors_and_resumes(
    serve: Callable[..., Server], new_page: Callable[..., Page]
) -> None:
    home = serve(APP)
    server = serve(APP, ALLOW_ORIGIN=home.url)
    page = Listener(new_page(), server, home=home.url, stream=server.url)
    page.wait("stream-open")
    last_id = page.push(1)[-1]
    page.values(1)
    page.push(2, cut=True)
    assert page.values(2) == [1, 2]
    assert page.came_with() == [None, last_id]


def test_another_origin_is_refused_without_cors(
    server: Server, serve: Callable[..., Server], new_page: Callable[..., Page]
) -> None:
    home = serve(APP)
    page = Listener(new_page(), server, home=home.url, stream=server.url)
    refused = page.wait("(error)")
    assert refused[0]["state"] == 2, "closed for good, not reconnecting"
    assert [entry["name"] for entry in page.seen()] == ["(error)"]
