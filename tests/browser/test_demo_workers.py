"""The demo with two workers and a broker between them, as visitors see it in their browsers."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from browser_support import Proxy, Server
from demo_page import QUICK, answer_ended, ask_again, log_line, notify, number, say, state, ticks_go_on, write
from file_server import FileServer
from playwright.sync_api import Page, expect
from redis_server import RedisServer
from servers import free_port, stopped
from waiting import PATIENCE

Visit = Callable[..., Page]


@pytest.fixture
def redis_url(redis: RedisServer) -> str:
    redis.admin.execute_command("ACL", "SETUSER", "demo", "on", ">any", "~*", "&*", "+@all")
    return redis.url.replace("//", "//demo:any@")


def demo(serve: Callable[..., Server], broker: str) -> Server:
    command = ["-m", "uvicorn", "examples.demo.app:app", "--workers", "2"]
    # The supervisor ends a worker that does not answer it for five seconds, by default. A worker that is
    # killed while the supervisor asks it costs this time, too, before there is another one.
    command += ["--timeout-worker-healthcheck", str(int(PATIENCE / 3))]
    command += ["--port", str(free_port())]
    quick = QUICK | {"SSE_HUB_TOKEN": "0.6"}  # but for answers, which take a minute
    server = serve(*command, **quick, SSE_HUB_BROKER=broker)
    workers_started(server, 2)
    return server


def workers_started(server: Server, count: int) -> None:
    """Wait until so many workers have started since the server is there."""
    end = time.monotonic() + PATIENCE
    while server.output.count("Application startup complete") < count:
        assert time.monotonic() < end, server.output
        time.sleep(0.05)


def worker(page: Page) -> str:
    """The worker that has the page's stream."""
    return page.locator("#fact-worker").inner_text()


def process(worker: str) -> int:
    return int(worker.rpartition("-")[2])


def move_from(page: Page, line: Proxy, other: str) -> None:
    """Have the page at another worker than that: cut its line, and mend it while that worker stands still."""
    if worker(page) == other:
        line.cut()
        state(page, "waiting")
        with stopped(process(other)):
            line.mend()
            expect(page.locator("#fact-worker")).not_to_have_text(other)
            state(page, "open")


def test_two_workers_are_one(
    redis_url: str, serve: Callable[..., Server], proxy_for: Callable[[Server], Proxy], visit: Visit
) -> None:
    server = demo(serve, redis_url)
    lines = [proxy_for(server) for _ in range(2)]
    ada, bob = visit(lines[0].url, "Ada"), visit(lines[1].url, "Bob")
    move_from(bob, lines[1], worker(ada))
    for page in (ada, bob):
        expect(page.locator("#people-count")).to_have_text("2")
        # Where Redis is, but not who signs in there.
        expect(page.locator("#fact-broker")).to_contain_text("redis://127.0.0.1:")
        expect(page.locator("#people b")).to_have_text(["Ada", "Bob"] if page is ada else ["Bob", "Ada"])
        # What only one process can show.
        expect(page.locator("#cost")).to_be_hidden()
        expect(page.locator("#table")).to_be_hidden()
    say(ada, "Hello, Bob")
    expect(bob.locator("#messages .text")).to_have_text(["Hello, Bob"])
    say(bob, "Hello, Ada")
    write(ada, "Bob", "for your eyes only")
    expect(bob.locator("#feed li[data-level=whisper] .text")).to_have_text(["for your eyes only"])
    notify(bob, "to all of you")
    eve = visit(server.url, "Eve")
    for page in (ada, bob, eve):
        expect(page.locator("#feed li[data-level=info] .text")).to_have_text(["to all of you"])
        expect(page.locator("#messages .text")).to_have_text(["Hello, Bob", "Hello, Ada"])
        expect(page.locator("#people-count")).to_have_text("3")
        ticks_go_on(page)
        # One market, not one for each worker, and it opened before the pages did.
        assert number(page, "ticks-received") > 100
    stream = bob.locator("#fact-stream").inner_text()
    ada.get_by_label("Cut: Bob").click()
    expect(bob.locator("#fact-stream")).not_to_have_text(stream)
    state(bob, "open")
    ticks_go_on(bob)
    move_from(ada, lines[0], worker(ada))
    for page in (ada, bob, eve):
        expect(log_line(page, "stream-reset")).to_have_count(0)
        expect(page.locator("#people-count")).to_have_text("3")


def test_nothing_is_lost_when_workers_die_and_the_server_restarts(
    files: FileServer,
    serve: Callable[..., Server],
    proxy_for: Callable[[Server], Proxy],
    visit: Visit,
) -> None:
    server = demo(serve, files.url)
    line = proxy_for(server)
    ada, bob = visit(server.url, "Ada"), visit(line.url, "Bob")
    move_from(bob, line, worker(ada))
    expect(ada.locator("#fact-broker")).to_contain_text(files.url)
    say(ada, "before")
    ada.click("#chips button >> nth=0")
    expect(ada.locator("#words")).to_contain_text("Server-")
    # One of the two keeps the market, and one writes the answer.
    for started, page in enumerate((ada, bob), 3):
        died = worker(page)
        os.kill(process(died), signal.SIGKILL)
        expect(page.locator("#fact-worker")).not_to_have_text(died)
        workers_started(server, started)
        for each in (ada, bob):
            state(each, "open")
            ticks_go_on(each)
    answer_ended("lost", ada)
    ask_again(ada)
    server.restart()
    answer_ended("stopped", ada)
    for page in (ada, bob):
        state(page, "open")
        ticks_go_on(page)
        expect(page.locator("#messages .text")).to_have_text(["before"])
        expect(page.locator("#people-count")).to_have_text("2")
        expect(log_line(page, "stream-reset")).to_have_count(0)
    ada.reload()
    answer_ended("stopped", ada)
