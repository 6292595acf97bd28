"""Runs through real sockets, on every delivery path: reloads, several watchers, slow ones, and every end."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from run_sources import one
from sse_hub import Hub
from sse_hub._testing.event_parser import Event
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from waiting import until, until_async
from wire import WAYS, Site, Stream, of_the_run

SITES = tuple(WAYS)


class Model:
    """An application with one run per path, whose words the test releases."""

    def __init__(self, site: Site, **options: Any) -> None:
        self.hub: Hub = site.hub(**options)
        self.site = site
        self.words = 0
        self.closed = threading.Event()
        self.failing: Exception | None = None
        site.app = Starlette(
            routes=[
                Route("/{id}", self.ask, methods=["POST"]),
                Route("/{id}", self.again, methods=["GET"]),
                Route("/{id}", self.stop, methods=["DELETE"]),
            ]
        )

    async def answer(self) -> AsyncIterator[Any]:
        said = 0
        try:
            while said < 10:
                while said >= self.words:
                    if self.failing is not None:
                        raise self.failing
                    await asyncio.sleep(0.002)
                yield {"word": said}
                said += 1
        finally:
            self.closed.set()

    async def ask(self, request: Request) -> Response:
        run = await self.hub.run(request.path_params["id"], self.answer)
        return run.response(format=request.query_params.get("format"))  # type: ignore[arg-type]

    async def again(self, request: Request) -> Response:
        format: Any = request.query_params.get("format")
        return self.hub.follow(request.path_params["id"], format=format)

    async def stop(self, request: Request) -> Response:
        return JSONResponse(await self.hub.stop(request.path_params["id"]))

    def start(self, id: str = "a") -> Stream:
        """A watcher of a run that has begun."""
        stream = Stream(self.site.port, f"/{id}", method="POST")
        stream.opened()
        return stream

    def watch(self, id: str = "a", **options: Any) -> Stream:
        return Stream(self.site.port, f"/{id}", **options)

    def delete(self, id: str = "a") -> Any:
        return httpx.delete(f"http://127.0.0.1:{self.site.port}/{id}", timeout=30, trust_env=False).json()

    def status(self, id: str, last_event_id: str = "") -> int:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        url = f"http://127.0.0.1:{self.site.port}/{id}"
        return httpx.get(url, headers=headers, timeout=30, trust_env=False).status_code


def said(events: list[Event]) -> list[Any]:
    return [event.json()["word"] if event.event == "message" else event.json() for event in events]


def done(state: str = "done") -> dict[str, str]:
    return {"state": state}


def test_a_reload_in_mid_run_goes_on_and_three_see_the_same(site: Site) -> None:
    model = Model(site)
    model.words = 3
    with model.start() as first:
        assert [first.event().json()["word"] for _ in range(3)] == [0, 1, 2]
        assert {one.path for one in model.hub.subscribers()} == {site.path}
    with model.watch(last_event_id=first.last_event_id) as reloaded, model.watch() as second:
        with model.start() as third:
            model.words = 10
            assert said(third.rest()) == [*range(10), done()]
        assert said(reloaded.rest()) == [*range(3, 10), done()]
        assert said(second.rest()) == [*range(10), done()]
        for stream in (reloaded, second, third):
            assert stream.ended
            assert stream.last_event_id == reloaded.last_event_id
        whole = of_the_run(third.body)
        assert of_the_run(second.body) == whole
        assert of_the_run(first.body) + of_the_run(reloaded.body) == whole
    assert model.status("a", reloaded.last_event_id) == 204
    assert model.status("unknown") == 204
    with model.watch() as late:
        assert said(late.rest()) == [*range(10), done()]
        assert of_the_run(late.body) == whole


def test_every_watcher_learns_of_a_stop(site: Site) -> None:
    model = Model(site)
    model.words = 2
    with model.start() as first, model.watch() as second:
        for stream in (first, second):
            assert [stream.event().json()["word"] for _ in range(2)] == [0, 1]
        assert model.delete() is True
        assert model.closed.is_set()
        for stream in (first, second):
            assert said(stream.rest()) == [done("stopped")]
            assert stream.ended
    assert model.delete() is False


def test_every_watcher_learns_of_a_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("sse_hub"), "propagate", False)  # `site` fails for what is logged
    model = Model(site)
    model.words = 1
    with ExitStack() as stack:
        first = stack.enter_context(model.start())
        others = {format: stack.enter_context(model.watch(f"a?format={format}")) for format in FAILED}
        assert first.event().json() == {"word": 0}
        model.failing = RuntimeError("the key is 1234")
        assert said(first.rest()) == [done("failed")]
        for format, error in FAILED.items():
            assert [event.json() for event in others[format].rest()] == [{"word": 0}, error]
            assert b"[DONE]" not in others[format].body
        for stream in (first, *others.values()):
            assert b"1234" not in stream.body
            assert stream.ended


def error_of(state: str) -> dict[str, Any]:
    message = {"stopped": "the run was stopped", "failed": "the run failed"}[state]
    return {"error": {"message": message, "type": "run_error", "param": None, "code": state}}


FAILED = {
    "ai-sdk": {"type": "error", "errorText": "the run failed"},
    "openai": error_of("failed"),
    "ag-ui": {"type": "RUN_ERROR", "message": "the run failed", "code": "failed"},
}

# What follows the run's own events when it is done, and when it was stopped.
FORMATS: dict[str, tuple[list[str], list[Any]]] = {
    "ai-sdk": (["[DONE]"], [{"type": "abort"}, "[DONE]"]),
    "openai": (["[DONE]"], [error_of("stopped")]),
    "ag-ui": ([], [{"type": "RUN_ERROR", "message": "the run was stopped", "code": "stopped"}]),
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_has_the_runs_events_and_its_own_end(site: Site, format: str) -> None:
    model = Model(site)
    good, bad = FORMATS[format]
    model.words = 10
    with Stream(site.port, f"/a?format={format}", method="POST") as stream:
        events = stream.rest()
        assert [event.json()["word"] for event in events[:10]] == list(range(10))
        assert [event.data for event in events[10:]] == good
        assert all(event.event == "message" for event in events)
        assert stream.ended
        sdk = b"x-vercel-ai-ui-message-stream: v1" in stream.head.lower()
        assert sdk == (format == "ai-sdk")
    assert nothing_more(model, f"a?format={format}", stream.last_event_id)
    assert nothing_more(model, f"unknown?format={format}")
    model.words = 1
    with Stream(site.port, f"/b?format={format}", method="POST") as stream:
        assert stream.event().json() == {"word": 0}
        model.delete("b")
        end = [event.data for event in stream.rest()]
        assert [data if data == "[DONE]" else json.loads(data) for data in end] == bad
        assert stream.ended
    assert nothing_more(model, f"b?format={format}", stream.last_event_id)


def nothing_more(model: Model, path: str, last_event_id: str = "") -> bool:
    """Whether a client is told so: AG-UI's, which needs a body, by an empty stream."""
    if not path.endswith("ag-ui"):
        return model.status(path, last_event_id) == 204
    with Stream(model.site.port, f"/{path}", last_event_id=last_event_id) as stream:
        return stream.rest() == [] and stream.ended


@pytest.mark.parametrize("format", [None, *FORMATS])
def test_a_watcher_receives_the_run_and_no_broadcast(site: Site, format: str | None) -> None:
    model = Model(site, history=2)
    path = f"/a?format={format}" if format else "/a"
    ending = FORMATS[format][0] if format else ['{"state":"done"}']
    words = [f'{{"word":{n}}}' for n in range(10)]
    model.hub.broadcast("kept from before")
    model.words = 2
    with Stream(site.port, path, method="POST") as first:
        assert [first.event().data for _ in range(2)] == words[:2]
        for _ in range(5):
            model.hub.broadcast("not all of these are kept")
        with (
            Stream(site.port, path, last_event_id=first.last_event_id) as back,
            Stream(site.port, path) as late,
        ):
            until(lambda: model.hub.count("a") == 3)
            model.hub.broadcast("live")
            for subscriber in model.hub.subscribers("a"):
                subscriber.send("for you")
            model.words = 10
            got = [[event.data for event in stream.rest()] for stream in (first, back, late)]
    sent, rest = ['"for you"'], [*words[2:], *ending]
    assert got == [sent + rest, sent + rest, words[:2] + sent + rest]


def test_a_slow_watcher_is_not_cut_and_costs_the_run_nothing(site: Site) -> None:
    hub = site.hub(capacity=2, capacity_bytes=1000, history=1)
    done_at = threading.Event()

    def large() -> Iterator[str]:
        for _ in range(400):
            yield "x" * 10_000
        done_at.set()

    async def ask(request: Request) -> Response:
        return (await hub.run("r", large)).response()

    site.app = Starlette(routes=[Route("/", ask)])
    with site.raw() as stream:
        assert done_at.wait(30), "the run does not wait for its watcher"
        events = stream.rest()
        assert [len(event.data) for event in events[:-1]] == [10_002] * 400
        assert events[-1].json() == done()
        assert stream.ended


def test_an_id_of_another_life_of_the_name_is_a_newcomers(site: Site) -> None:
    model = Model(site)
    model.words = 10
    with model.start() as stream:
        assert said(stream.rest())[-1] == done()
    other = model.hub.publish("elsewhere", 1).id or ""
    with model.watch("a", last_event_id=other) as stream:
        assert said(stream.rest()) == [done()]

    async def again(request: Request) -> Response:
        return (await model.hub.run("b", model.answer, keep=0)).response()

    site.app = Starlette(routes=[Route("/", again)])
    with site.raw() as stream:
        first = stream.event().id
        stream.rest()
    with site.raw(last_event_id=first) as stream:
        while (event := stream.next()).event != "stream-reset":
            assert event.event in (":", "stream-open")
        assert event.json()["reason"] == "evicted", "what it held is void"
        assert [event.json() for event in stream.rest()][-1] == done()


def test_a_watcher_whose_run_is_forgotten_while_it_is_answered_gets_it(site: Site) -> None:
    """It found the run, whose name is free before its head goes out."""
    hub = site.hub()

    async def ask(request: Request) -> Response:
        run = await hub.run("a", one, keep=0.5)
        await run.wait()
        return hub.follow("a")

    def forgets(app: ASGIApp) -> ASGIApp:
        async def answers(scope: Scope, receive: Receive, send: Send) -> None:
            async def sends(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await until_async(lambda: hub.stats()["topics"] == 0)
                await send(message)

            await app(scope, receive, sends)

        return answers

    site.app = Starlette(routes=[Route("/", ask)], middleware=[Middleware(forgets)])
    with site.raw() as stream:
        assert [event.event for event in stream.rest()] == ["message", "stream-end"]
        assert stream.ended


def test_watchers_of_a_server_that_stops_learn_of_it(site: Site) -> None:
    """On a server of its own: the test ends it."""
    own = Site(next(way for way, (path, _) in WAYS.items() if path == site.path))
    model = Model(own)
    model.words = 1
    with model.start() as stream:
        assert stream.event().json() == {"word": 0}
        until(lambda: model.hub.count("a") == 1)
        own.close()
        assert said(stream.rest()) == [done("stopped")]
        assert stream.ended
    assert model.closed.is_set()
    own.close_hubs()
