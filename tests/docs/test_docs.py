"""Every Python block of README.md and docs/ runs, and every application in them is used as its text says."""

from __future__ import annotations

import asyncio
import json
import queue
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.middleware.gzip import GZipMiddleware
from file_server import FileServer
from live import serve
from pages import PAGES, PYTHON, ROOT, Block, exercises, find
from redis_server import RedisServer
from sse_hub import EndKind, Hub, HubResponse
from sse_hub._servers.stay import Stay
from sse_hub.testing import Clock, connect
from waiting import PATIENCE, until

LINKED = [
    *PAGES,
    *(ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name for name in ("bench/README.md", "bench/results/results.md", "tests/README.md")),
]


@pytest.fixture
def main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """README's first example as the module that its text calls it."""
    module = ModuleType("main")
    vars(module).update(find("README.md", "Quick start")[0].run())
    monkeypatch.setitem(sys.modules, "main", module)


@pytest.mark.usefixtures("main_module")
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_the_block_runs(block: Block) -> None:
    names = block.run()
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        asyncio.run(test())  # each on a loop of its own, as pytest-asyncio runs them


def test_every_application_is_exercised() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r'@exercises\("([^"]+)", "([^"]+)"\)', sources))
    apps = {(block.page.name, block.heading) for block in PYTHON if "app = " in block.text}
    assert apps <= named, "programs with an app that no test uses"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def test_every_link_leads_somewhere() -> None:
    for page in LINKED:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not target.startswith(("http://", "https://")):
                path, _, anchor = target.partition("#")
                linked = page.parent / path if path else page
                assert linked.exists(), f"{page.name} links to {target}"
                assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def test_every_file_that_is_named_is_there() -> None:
    for page in LINKED:
        for path in re.findall(
            r"`((?:src|python|tests|docs|bench|tools|examples)/[\w./-]*)`", page.read_text()
        ):
            is_there = (ROOT / path).exists() or (ROOT / f"{path}.rs").exists()
            assert is_there or "/raw/" in path, f"{page.name} names {path}"


@exercises("README.md", "Quick start")
def test_the_first_example_does_what_its_commands_say(block: Block) -> None:
    push = next(b.text for b in find("README.md", block.heading, "sh") if b.text.startswith("curl"))
    arguments = shlex.split(push)
    body, header = arguments[arguments.index("-d") + 1], arguments[arguments.index("-H") + 1]
    path = httpx.URL(arguments[-1]).path
    names = block.run()
    with serve(names["app"]) as server, server.stream("/events") as events:
        assert events.response.headers["content-type"].startswith("text/event-stream")
        name, _, value = header.partition(": ")
        answer = server.http.post(path, content=body, headers={name: value})
        assert answer.json() == {"online": 1}
        event = events.next()
        assert (event.event, event.json()) == ("tick", json.loads(body))
        assert 'new EventSource("/events").addEventListener("tick"' in server.http.get("/").text


@exercises("quickstart.md", "In a snapshot")
def test_a_session_is_open_for_the_snapshot_and_closed_after_it(block: Block) -> None:
    names = block.run()
    printed: list[str] = []
    names["print"] = printed.append
    with serve(names["app"]) as server, server.stream("/prices") as events:
        assert events.next().json() == {"gold": 2411.5}
        assert [client.path for client in names["hub"].subscribers()] == ["reactor"]
        until(lambda: printed == ["the session is closed"])
        names["hub"].publish("prices", "hello")
        assert events.next().json() == "hello"


def test_the_reasons_to_stay_are_those_of_the_table() -> None:
    page = next(page for page in PAGES if page.name == "hand-off.md")
    table = page.read_text().partition("## When a stream stays")[2].partition("## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)[1:]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(Stay)


@exercises("publishing.md", "One client, one user")
def test_one_client_is_poked_and_a_user_signed_out(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    names = block.run()
    with (
        serve(names["app"]) as server,
        server.stream("/events/ann") as ann,
        server.stream("/events/bob") as bob,
    ):
        assert server.http.post("/poke/ann").json() == {"online": 2}
        event = ann.next()
        assert (event.event, event.json()) == ("poke", {"text": "hello"})
        assert names["hub"].subscribers("news")[0].info == {"since": "today"}
        assert server.http.delete("/sessions/ann").json() == {"closed": 1}
        assert ann.rest() == []
        names["hub"].publish("news", "still here")
        assert bob.next().json() == "still here"
    assert "ann left: signed out" in capsys.readouterr().out


@exercises("publishing.md", "Errors")
def test_what_cannot_be_published_is_answered_with_the_reason(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        json_type = {"Content-Type": "application/json"}
        for content, reason in [
            ('{"gold": NaN}', "nan"),
            (json.dumps({"x": "x" * 2**20}), "max_event_bytes"),
        ]:
            answer = server.http.post("/push", content=content, headers=json_type)
            assert answer.status_code == 422
            assert reason in answer.json()["detail"]
        assert server.http.post("/push", json={"gold": 2411.5}).status_code == 200


@exercises("quickstart.md", "Database sessions")
def test_a_session_is_closed_while_the_stream_is_open(block: Block) -> None:
    names = block.run()
    made: list[dict[str, Any]] = []
    app, get_session = names["app"], names["get_session"]

    def watched() -> Any:
        for session in get_session():
            made.append(session)
            yield session

    app.dependency_overrides[get_session] = watched
    with serve(app) as server, server.stream("/events/ann") as events:
        events.opened()
        until(lambda: made == [{}])  # the session is closed although the stream is open
        names["hub"].publish("news", 1)
        assert events.next().data == "1"
        assert server.http.get("/events/bob").status_code == 403


@exercises("quickstart.md", "In Starlette")
def test_starlette_routes(block: Block) -> None:
    names = block.run()
    names["hub"].publish("prices", "latest")
    with serve(names["app"]) as server:
        with server.stream("/prices") as events:
            assert events.next().json() == "latest"
        with server.stream("/events?topic=prices&topic=news&topic=other*") as events:
            events.opened()
            for topic in ("other", "news", "prices"):
                names["hub"].publish(topic, topic)
            assert [events.next().json(), events.next().json()] == ["news", "prices"]


@exercises("browsers.md", "Another origin")
def test_another_origin_is_allowed(block: Block) -> None:
    names = block.run()
    origin = {"Origin": "https://shop.example"}
    with serve(names["app"]) as server:
        with server.stream("/events", headers=origin) as events:
            assert events.response.headers["access-control-allow-origin"] == "https://shop.example"
            assert events.response.headers["access-control-allow-credentials"] == "true"
            events.opened()
            names["hub"].publish("prices", 1)
            assert events.next().data == "1"
        with server.stream("/events", headers={"Origin": "https://other.example"}) as events:
            assert "access-control-allow-origin" not in events.response.headers
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "last-event-id"}
        assert server.http.options("/events", headers=origin | asked).status_code == 200


@pytest.fixture(params=["alone", "set to nothing", "over files", "with Redis"])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The variable that programs read, unset, or with a broker's URL; what that names, or None."""
    monkeypatch.delenv("SSE_HUB_BROKER", raising=False)
    with {"over files": FileServer, "with Redis": RedisServer}.get(request.param, nullcontext)() as store:
        if request.param != "alone":
            monkeypatch.setenv("SSE_HUB_BROKER", "" if store is None else store.url)
        yield store


@exercises("README.md", "Several workers")
def test_scaling_out_begins_with_one_variable(block: Block, broker: Any) -> None:
    with serve(block.run()["app"]) as server, server.stream("/events") as events:
        events.opened()

        def pushed() -> Any:
            """The endpoint's answer, once the event that it says it published has arrived."""
            answer = server.http.post("/push", json={"gold": 1}).json()
            event = events.next()
            assert (event.json(), event.id) == ({"gold": 1}, answer["id"])
            return answer

        first = pushed()
        # Presence is written to the broker a few times a second.
        until(lambda: pushed()["online"] == 1)
        if broker is not None:
            assert first["id"] in broker.ids()
            with serve(block.run()["app"]) as other, other.stream("/events") as newcomer:
                newcomer.next()  # replay=1: the last of the other one's
                latest = pushed()
                assert newcomer.next().id == latest["id"]
                until(lambda: pushed()["online"] == 2)


@exercises("scaling-out.md", "Publishing")
def test_an_endpoint_says_what_became_of_its_event(block: Block, broker: Any) -> None:
    with serve(block.run()["app"]) as server, server.stream("/events") as events:
        events.opened()
        answer = server.http.post("/orders", json={"item": 7}).json()
        assert events.next().id == answer["id"]
        if broker is not None:
            (script,) = [other for other in find("scaling-out.md", "Publishing") if other != block]
            script.run()
            assert events.next().json() == {"status": "shipped"}


@exercises("operations.md", "What to watch")
def test_the_numbers_are_those_of_the_tables(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server:
        stats = server.http.get("/hub-stats").json()
    text = block.page.read_text().partition("Counters.")[2].partition("How to read them")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(stats)


def test_the_reasons_are_those_of_the_core() -> None:
    def words(kind: str) -> set[str]:
        """The words of an enum, wherever in the core it is."""
        (source,) = [text for text in sources if f"pub enum {kind} " in text]
        return set(re.findall(r'Self::\w+(?:\([\w.]*\))? => "(\w+)"', source))

    sources = [path.read_text() for path in (ROOT / "src").rglob("*.rs")]
    ends = set(first_cells("streams.md", "Why a stream ended"))
    assert ends == {kind.value for kind in EndKind}
    assert ends <= set(re.findall(r"``(\w+)``", Hub.on_disconnect.__doc__ or ""))
    for page, heading in [("reconnecting.md", "Resets"), ("protocol.md", "`stream-reset`")]:
        assert set(first_cells(page, heading)) == words("ResetReason")


def first_cells(page: str, heading: str) -> list[str]:
    """The words with which the rows of a table begin."""
    text = (ROOT / "docs" / page).read_text()
    section = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{page} has no {heading!r}"
    return re.findall(r"^\| `(\w+)`", section[2], re.MULTILINE)


@exercises("streams.md", "A response of your own")
def test_responses_of_ones_own_stream(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server:
        for path in ("/plain", "/events"):
            with server.stream(path) as events:
                events.opened()
                names["hub"].publish("prices", path)
                assert events.next().json() == path


@exercises("reconnecting.md", "Ids")
def test_a_generator_resumes(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        for headers, query, numbers in [
            ({}, "", [0, 1, 2, 3, 4]),
            ({"Last-Event-ID": "2"}, "", [3, 4]),
            ({}, "?last_event_id=3", [4]),
        ]:
            with server.stream(f"/numbers{query}", headers=headers) as events:
                assert [event.json() for event in events.rest()] == numbers


@exercises("from-sse-starlette.md", "Beside FastAPI's own `fastapi.sse`")
def test_a_hub_beside_fastapis_own_streams(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        with server.stream("/countdown") as events:
            assert [(event.event, event.json()) for event in events.rest()] == [
                ("count", {"left": left}) for left in (3, 2, 1)
            ]
        with server.stream("/news") as events:
            events.opened()
            server.http.post("/news", json={"title": "it works"})
            event = events.next()
            assert (event.event, event.json()) == ("news", {"title": "it works"})


@exercises("README.md", "Moving from sse-starlette")
def test_the_bytes_are_those_of_sse_starlette(block: Block) -> None:
    theirs = block.text.replace("from sse_hub import", "from sse_starlette import")
    answers = []
    for text in (block.text, theirs):
        with serve(replace(block, text=text).run()["app"]) as server:
            response = server.http.get("/numbers")
            headers = {name: value for name, value in response.headers.items() if name != "date"}
            answers.append((headers, response.content))
    assert answers[0] == answers[1]


def test_streams_pass_the_middleware_that_is_named() -> None:
    app, hub, left = FastAPI(), Hub(), queue.Queue[str]()
    app.add_middleware(GZipMiddleware)

    @app.middleware("http")
    async def stamp(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-stamp"] = "1"
        return response

    @app.get("/events")
    async def events() -> HubResponse:
        return hub.response("t")

    hub.on_disconnect(lambda _, reason: left.put(reason))
    with serve(app) as server:
        with server.stream("/events") as stream:
            assert stream.response.headers["x-stamp"] == "1"
            assert "content-encoding" not in stream.response.headers
            stream.opened()
            for number in range(3):
                hub.publish("t", number)
                assert stream.next().json() == number
        assert left.get(timeout=PATIENCE) == "client"


async def test_the_control_events_are_those_of_the_table() -> None:
    rows = re.findall(
        r"^\| `(stream-\w+)` \| (.*?) \|", (ROOT / "docs" / "protocol.md").read_text(), re.MULTILINE
    )
    said = {
        name: set(json.loads(data.strip("`"))) if data.startswith("`") else data.partition(",")[0]
        for name, data in rows
    }
    clock = Clock()
    hub = clock.hub(capacity=1, overflow="drop_oldest", heartbeat=15)
    seen = {}
    async with connect(hub.endpoint("t"), "/", control=True, last_event_id="other-1") as client:

        async def see(name: str) -> None:
            while (event := await client.next()).event != name:
                assert event.event == "message"
            seen[name] = set(event.json()) if event.data else "empty"

        await see("stream-open")
        await see("stream-reset")
        hub.publish("elsewhere", 1)
        await clock.advance(15)
        await see("stream-cursor")
        client.pause()
        for number in range(20):
            hub.publish("t", number)
            await clock.advance(0.1)  # enough for what follows to wait behind an unfinished write
        client.resume()
        await see("stream-lagged")
        hub.end("t")
        await see("stream-end")
    assert seen == said
