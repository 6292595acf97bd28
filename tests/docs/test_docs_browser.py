"""The pages of README.md and docs/recipes.md, their JavaScript word for word, in a real Chromium."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from live import Server, serve
from pages import Block, exercises, find
from playwright.sync_api import Browser, Page, expect, sync_playwright
from waiting import PATIENCE

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

# What the snippets find in their page, and say that there is.
PAGE = """<!doctype html><b id="gold"></b><pre></pre><div id="chat"></div><p id="answer"></p>
<p id="number"></p><div id="offers"></div>
<script>const job = new URLSearchParams(location.search).get("job"), shown = [];
function show(progress) { shown.push(progress); }
class Notification { constructor(title) { document.body.append(title); } }</script>
<script>SNIPPET</script>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert Path(CHROMIUM).exists(), f"no Chromium at {CHROMIUM} (apt-get install chromium, or set CHROMIUM)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in which no script may fail."""
    errors: list[str] = []
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
    assert errors == []


def app_of(heading: str) -> FastAPI:
    """The program under a heading of the recipes, with its snippet at ``/page``."""
    (program,), (snippet,) = find("recipes.md", heading), find("recipes.md", heading, "js")
    app: FastAPI = program.run()["app"]

    @app.get("/page", response_class=HTMLResponse)
    def the_page() -> str:
        return PAGE.replace("SNIPPET", snippet.text)

    return app


@pytest.fixture
def recipe() -> Iterator[Callable[[str], Server]]:
    """Serve such a program for as long as the test runs."""
    with ExitStack() as servers:
        yield lambda heading: servers.enter_context(serve(app_of(heading)))


def open_stream(page: Page, url: str, stream: str) -> None:
    """Open a page and wait until the stream it opens has begun: it misses nothing from then on."""
    with page.expect_response(f"**{stream}"):
        page.goto(url)


def test_the_first_example_shows_what_is_pushed(page: Page) -> None:
    with serve(find("README.md", "Quick start")[0].run()["app"]) as server:
        open_stream(page, server.url, "/events")
        server.http.post("/push", json={"gold": 2411.5})
        expect(page.locator("li")).to_have_text(['{"gold":2411.5}'])


@exercises("browser-client.md", "The first program")
def test_the_browser_client_keeps_its_state(block: Block, page: Page) -> None:
    with serve(block.run()["app"]) as server:
        server.http.put("/prices/gold", params={"price": 1})
        open_stream(page, server.url, "/events")
        server.http.put("/prices/tin", params={"price": 2})
        expect(page.locator("pre")).to_have_text('{"gold":1,"tin":2}')


def test_the_ticker_moves(page: Page, recipe: Callable[[str], Server]) -> None:
    page.goto(recipe("A price ticker").url + "/page")
    gold = page.locator("#gold")
    expect(gold).to_have_text(re.compile(r"\d"))
    expect(gold).not_to_have_text(gold.inner_text())


def test_a_notification_is_shown(page: Page, recipe: Callable[[str], Server]) -> None:
    server = recipe("Notifications to one user")
    page.context.add_cookies([{"name": "session", "value": "secret-of-ann", "url": server.url}])
    open_stream(page, server.url + "/page", "/notifications")
    assert server.http.post("/notify/ann", json={"title": "Your order is here"}).json() == {"open": 1}
    expect(page.get_by_text("Your order is here")).to_be_visible()


def test_the_log_is_shown(page: Page, recipe: Callable[[str], Server]) -> None:
    server = recipe("A live log")
    open_stream(page, server.url + "/page", "/log")
    server.http.post("/orders/0")
    expect(page.locator("pre")).to_contain_text("ERROR order 0 failed\nTraceback")
    logging.getLogger("shop").handlers.clear()


def test_the_chat_shows_text_as_text(page: Page, recipe: Callable[[str], Server]) -> None:
    server = recipe("A chat with history")
    open_stream(page, server.url + "/page", "/events?name=ann")
    server.http.post("/rooms/lobby", json={"name": "bob", "text": "<b>hello</b>"})
    expect(page.locator("#chat p")).to_have_text(["bob: <b>hello</b>"])


def test_a_page_joins_a_topic(page: Page, recipe: Callable[[str], Server]) -> None:
    server = recipe("Topics that change while a page is open")
    with page.expect_response("**/topics/sport") as joined:
        page.goto(server.url + "/page")
    assert joined.value.json() == {"topics": ["everybody", "sport"]}
    server.http.post("/topics/sport", json={"score": "1:0"})
    expect(page.locator("pre")).to_have_text('{"score":"1:0"}\n')


def test_the_job_is_followed_to_its_end(page: Page, recipe: Callable[[str], Server]) -> None:
    server = recipe("The progress of a job")
    job = server.http.post("/jobs").json()["job"]
    page.goto(f"{server.url}/page?job={job}")
    page.wait_for_function("source.readyState === EventSource.CLOSED && shown.length === 5")


def test_the_answer_is_written_once(page: Page, recipe: Callable[[str], Server]) -> None:
    page.goto(recipe("An AI answer, token by token").url + "/page")
    expect(page.locator("#answer")).to_have_text("You asked: what is SSE? ")
    page.wait_for_function("source.readyState === EventSource.CLOSED")


def test_the_last_word_is_shown(page: Page) -> None:
    number = page.locator("#number")
    with serve(app_of("A last word when the server stops")) as server:
        page.goto(server.url + "/page")
        expect(number).to_have_text(re.compile(r"\d"))
    expect(number).to_have_text("back in a moment…")


def test_the_offers_are_listed(page: Page, recipe: Callable[[str], Server]) -> None:
    page.goto(recipe("Several sources, one stream").url + "/page")
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    lines = page.locator("#offers p").all_inner_texts()
    assert sorted(lines) == ["harbour: 47", "north: 45", "south: 45"]
