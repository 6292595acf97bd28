"""The programs of docs/runs.md, used as its text says; the first one in a real Chromium."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from live import serve
from pages import Block, exercises, hold_pauses
from playwright.sync_api import Browser, expect, sync_playwright
from waiting import PATIENCE

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ANSWER = "You asked: why? Let me think about that for a while."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@exercises("runs.md", "Runs")
def test_an_answer_survives_the_reload_and_is_seen_and_stopped_in_two_tabs(
    block: Block, browser: Browser
) -> None:
    names = block.run()
    with serve(names["app"]) as server, browser.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        first, second = context.new_page(), context.new_page()
        first.goto(server.url)
        first.get_by_text("ask").click()
        expect(first.locator("#answer")).to_contain_text("You asked:")
        second.goto(server.url)
        first.reload()
        for page in (first, second):
            expect(page.locator("#answer")).to_have_text(ANSWER, timeout=PATIENCE * 1000)
            expect(page.locator("#state")).to_have_text("done")


@exercises("runs.md", "Runs")
def test_it_is_stopped_from_elsewhere_and_asked_again(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server:
        assert server.http.get("/answers/1").status_code == 204
        long = {"prompt": "more " * 1000}  # it lasts until it is stopped
        assert server.http.post("/answers/1", params=long).json() == {"state": "running"}
        with server.stream("/answers/1") as events:
            assert events.next().json() == "You"
            assert server.http.delete("/answers/1").json() == {"stopped": True}
            assert events.rest()[-1].json() == {"state": "stopped"}
        assert server.http.delete("/answers/1").json() == {"stopped": False}


@exercises("runs.md", "AI SDK: useChat that resumes")
def test_the_chat_resumes(block: Block) -> None:
    names = block.run()
    go_on = hold_pauses(names)
    with serve(names["app"]) as server:
        assert server.http.get("/api/chat/7/stream").status_code == 204
        body = {"id": "7", "messages": []}
        with server.http.stream("POST", "/api/chat", json=body) as response:
            assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
            next(response.iter_raw())
            with server.stream("/api/chat/7/stream") as events:
                go_on.set()
                got = [event.data for event in events.rest()]
        assert got[-1] == "[DONE]"
        deltas = [json.loads(data).get("delta", "") for data in got[:-1]]
        assert "".join(deltas) == "Resuming works by itself."


@exercises("runs.md", "openai's client")
def test_a_repeated_completion_joins(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        answers = [
            server.http.post("/v1/chat/completions", json={"model": "m"}, headers={"X-Request-Id": "1"}).text
            for _ in range(2)
        ]
    words = [line[6:] for line in answers[0].splitlines() if line.startswith("data: ")]
    assert words[-1] == "[DONE]"
    assert len(words) == 4
    without_retry = [[line for line in answer.splitlines() if "retry:" not in line] for answer in answers]
    assert without_retry[0][2:] == without_retry[1][2:]


@exercises("runs.md", "Progress of a job")
def test_progress_comes_to_its_end(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        server.http.post("/jobs/7", params={"pages": 4})
        with server.stream("/jobs/7") as events:
            got = [(event.event, event.data) for event in events.rest() if event.event != "stream-open"]
    assert got[-2:] == [("file", "/files/7.pdf"), ("stream-end", '{"state":"done"}')]
    assert [json.loads(data)["percent"] for _, data in got[:-2]] == [25, 50, 75, 100]


@exercises("runs.md", "Progress of an agent, or of an MCP tool")
def test_an_agent_reports_and_is_stopped(block: Block) -> None:
    names = block.run()
    go_on = hold_pauses(names)
    go_on.set()
    with serve(names["app"]) as server:
        server.http.post("/research/1", params={"question": "bees"})
        with server.stream("/research/1") as events:
            events.opened()
            got = [(event.event, event.json()) for event in events.rest()]
        assert [event for event, _ in got] == ["progress", "progress", "progress", "result", "stream-end"]
        assert got[0][1] == {"progress": 1, "total": 3, "message": "search"}
        assert got[3][1] == "All about bees."
        go_on.clear()
        server.http.post("/research/2", params={"question": "wasps"})
        with server.stream("/research/2") as events:
            assert events.next().event == "progress"
            assert server.http.delete("/research/2").json() == {"stopped": True}
            assert events.rest()[-1].json() == {"state": "stopped"}


@exercises("scaling-out.md", "Once per hub")
def test_the_market_ticks_once(block: Block) -> None:
    with serve(block.run()["app"]) as server, server.stream("/prices") as events:
        event = events.next()
        assert (event.event, event.json()) == ("tick", {"gold": 2412.0})
