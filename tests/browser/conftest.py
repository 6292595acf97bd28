"""A real Chromium, or Firefox for the stream tests, and fixtures that start servers and clean up."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from browser_support import Proxy, Server, running
from demo_page import visitor
from firefox import Firefox
from playwright.sync_api import Browser, Page, expect, sync_playwright
from waiting import PATIENCE

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

expect.set_options(timeout=PATIENCE * 1000)


# For a module, not for the session: while Playwright's synchronous interface is open, an event loop
# counts as running in this thread, and asynchronous tests elsewhere could not run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser | Firefox]:
    if os.environ.get("SSE_HUB_BROWSER") == "firefox":
        with Firefox() as firefox:
            yield firefox
        return
    if not Path(CHROMIUM).exists():
        pytest.fail(
            f"The browser tests need Chromium at {CHROMIUM} (apt-get install chromium, or set CHROMIUM)."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Browser | Firefox) -> Iterator[Callable[[], Page]]:
    """Make a page of its own: another browser profile, so another pool of connections.

    No script may fail, which only Chromium tells.
    """
    contexts, errors = [], []

    def make(**options: object) -> Page:
        if isinstance(browser, Firefox):
            contexts.append(browser.new_page())
            return contexts[-1]
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def visit(new_page: Callable[..., Page]) -> Callable[..., Page]:
    """Open the demo under a name, and wait until its stream is open."""
    return visitor(new_page)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start a server for this test only; takes what `running` takes."""
    with ExitStack() as servers:
        yield lambda *command, **options: servers.enter_context(running(*command, **options))


@pytest.fixture
def proxy_for() -> Iterator[Callable[[Server], Proxy]]:
    """Put a proxy in front of a server."""
    proxies = []

    def start(server: Server) -> Proxy:
        proxy = Proxy(server.port)
        proxies.append(proxy)
        return proxy

    yield start
    for proxy in proxies:
        proxy.close()
