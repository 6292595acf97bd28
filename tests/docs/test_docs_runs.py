"""The programs of docs/runs.md, used as its text says, with the clients that it names.

A real Chromium, React, openai's client, and MCP's with a server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from browser_support import Proxy
from fastapi.responses import HTMLResponse
from live import serve
from pages import ROOT, Block, count_pauses, exercises, find, hold_pauses
from playwright.sync_api import Browser, expect, sync_playwright
from run_readers import NODE
from waiting import PATIENCE, until
from wire import of_the_run

PACKAGES_PYTHON = Path(sys.prefix) / "packages" / "bin" / "python"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ANSWER = "You asked: why? Let me think about that for a while."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@exercises("runs.md", "Runs")
def test_an_answer_survives_the_reload_and_a_cut_and_is_seen_in_two_tabs(
    block: Block, browser: Browser
) -> None:
    names = replace(block, text=block.text.replace("Hub()", "Hub(reconnect=(0.05, 0.1))")).run()
    pauses = count_pauses(names)
    with serve(names["app"]) as server, closing(Proxy(server.port)) as line, browser.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        first, second = context.new_page(), context.new_page()
        first.goto(server.url)
        first.get_by_text("ask").click()
        pauses.release(2)
        second.goto(line.url)
        first.reload()
        for page in (first, second):
            expect(page.locator("#answer")).to_have_text("You asked:", timeout=PATIENCE * 1000)
        line.cut()
        pauses.release(100)
        line.mend()
        for page in (first, second):
            expect(page.locator("#state")).to_have_text("done", timeout=PATIENCE * 1000)
            assert page.locator("#answer").inner_text() == ANSWER


@exercises("runs.md", "Runs")
@pytest.mark.parametrize("stopper", [0, 1])
def test_it_is_stopped_in_either_tab(block: Block, browser: Browser, stopper: int) -> None:
    names = block.run()
    pauses = count_pauses(names)
    with serve(names["app"]) as server, browser.new_context() as context:
        context.set_default_timeout(PATIENCE * 1000)
        tabs = [context.new_page(), context.new_page()]
        tabs[0].goto(server.url)
        tabs[0].get_by_text("ask").click()
        pauses.release(2)
        tabs[1].goto(server.url)
        for tab in tabs:
            expect(tab.locator("#answer")).to_have_text("You asked:", timeout=PATIENCE * 1000)
        tabs[stopper].get_by_text("stop").dispatch_event("click")
        for tab in tabs:
            expect(tab.locator("#state")).to_have_text("stopped", timeout=PATIENCE * 1000)
            assert tab.locator("#answer").inner_text() == "You asked:"


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


@exercises("runs.md", "AI SDK: useChat that resumes")
def test_react_resumes_the_chat(block: Block) -> None:
    names = block.run()
    pauses = count_pauses(names)
    (hook,) = find("runs.md", block.heading, "tsx")
    half, whole = "Resuming works ", "Resuming works by itself."
    script = shutil.copy(Path(__file__).with_name("use_chat.mjs"), NODE)  # modules are looked for beside it
    with serve(names["app"]) as server:
        command = ["node", script, server.url, hook.text, half, whole]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
            pauses.release(2)
            said = []
            for line in page.stdout or ():
                said.append(json.loads(line))
                if said.count({"shows": half}) == 2:
                    pauses.release(2)
    resume = "GET /api/chat/7/stream"
    assert said == [
        {"asked": resume, "status": 204},
        {"asked": "POST /api/chat", "status": 200},
        {"shows": half},
        {"asked": resume, "status": 200},
        {"shows": half},
        {"shows": whole, "roles": ["user", "assistant"]},
    ]


@exercises("runs.md", "openai's client")
def test_openais_client_gets_the_completion_and_a_repeated_request_joins(
    block: Block, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    names = block.run()
    (client,) = find("runs.md", block.heading, "py")
    with serve(names["app"]) as server:
        exec(client.text.replace("http://localhost:8000", server.url), {})
        assert capsys.readouterr().out == "Hello from here\n"
        request = {"json": {"model": "canned"}, "headers": {"X-Request-Id": "1"}}
        first, second = [server.http.post("/v1/chat/completions", **request).content for _ in range(2)]
        assert names["hub"].stats()["runs"]["done"] == 1
    assert of_the_run(first) == of_the_run(second)
    assert first.endswith(b"data: [DONE]\n\n")


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


@exercises("runs.md", "Progress of an agent, or of an MCP tool")
def test_a_page_shows_an_agents_progress_and_its_result(block: Block, browser: Browser) -> None:
    names = block.run()
    (script,) = find("runs.md", block.heading, "js")
    page_of = """<script>
      const id = 1, shown = [], results = [];
      const show = (progress) => shown.push(progress.message), finish = (result) => results.push(result);
    </script><script>SCRIPT</script>"""
    page_of = page_of.replace("SCRIPT", script.text)
    names["app"].get("/", response_class=HTMLResponse)(lambda: page_of)
    with serve(names["app"]) as server, browser.new_context() as context:
        server.http.post("/research/1", params={"question": "bees"})
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("source.readyState === EventSource.CLOSED", timeout=PATIENCE * 1000)
        assert page.evaluate("[shown, results]") == [["search", "read", "write"], ["All about bees."]]


@exercises("runs.md", "Progress of an agent, or of an MCP tool")
def test_a_real_mcp_tool_reports_and_is_stopped(block: Block) -> None:
    (work,) = find("runs.md", block.heading, "py")
    done = subprocess.run(
        [PACKAGES_PYTHON, str(ROOT / "tests" / "support" / "mcp_research.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        input=block.text + work.text,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [
        ["progress", {"progress": at, "total": 3, "message": step}]
        for at, step in enumerate(("search", "read", "write"), 1)
    ]
    result = said.pop(3)
    assert (result[0], result[1]["content"][0]["text"]) == ("result", "All about bees.")
    assert said == [*steps, ["stream-end", {"state": "done"}], *steps, ["stream-end", {"state": "stopped"}]]


@exercises("runs.md", "An answer that is kept for good")
def test_every_answer_is_stored_at_its_end(block: Block) -> None:
    names = block.run()
    pauses = count_pauses(names)
    with serve(names["app"]) as server:

        def stored(id: str) -> httpx.Response:
            return server.http.get(f"/answers/{id}")

        assert stored("done").status_code == 404
        for id, said in {"done": 6, "stopped": 1, "closed": 1}.items():
            assert server.http.post(f"/answers/{id}", params={"prompt": "why?"}).json() == {
                "state": "running"
            }
            pauses.release(said)
            with server.stream(f"/answers/{id}/events") as events:
                assert events.next().json() == "You "
                if id == "stopped":
                    assert server.http.delete(f"/answers/{id}").json() == {"stopped": True}
                if id != "closed":
                    assert events.rest()[-1].json() == {"state": id}
                    until(lambda id=id: stored(id).status_code == 200)
        assert stored("done").json() == {"state": "done", "text": "You asked: why? Let me think. "}
        assert stored("stopped").json() == {"state": "stopped", "text": "You "}
    # The server has waited for the one that it stopped.
    (row,) = names["database"].execute("SELECT state, text FROM answers WHERE id = 'answer:closed'")
    assert row == ("stopped", "You ")


@exercises("scaling-out.md", "Once per hub")
def test_the_market_ticks_once(block: Block) -> None:
    with serve(block.run()["app"]) as server, server.stream("/prices") as events:
        event = events.next()
        assert (event.event, event.json()) == ("tick", {"gold": 2412.0})
