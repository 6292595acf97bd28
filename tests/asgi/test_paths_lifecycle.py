"""Presence, how streams end, and hubs in apps: through real sockets and on both paths."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from asgi_layers import Passing
from fastapi import Depends, FastAPI
from sse_hub import EventSourceResponse, Subscription
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import PATIENCE, until
from wire import WAYS, Site, names, only, quiet, reset

SITES = tuple(WAYS)


# --- Subscribers -----------------------------------------------------------------------------------


def test_counts_and_stats_and_what_a_subscriber_knows_of_itself(site: Site) -> None:
    hub = site.hub()
    info = {"any": "thing"}
    with site.stream(hub, ["a", "b"], user="ann", info=info), site.stream(hub, "a"):
        assert (hub.count(), hub.count("a"), hub.count("b"), hub.count("c")) == (2, 2, 1, 0)
        stats = hub.stats()
        assert stats["subscribers"] == stats["connected"] == 2
        assert stats["handed_off"] == (2 if site.path == "reactor" else 0)
        (ann,) = hub.subscribers("b")
        assert (ann.topics, ann.user, ann.path, ann.closed) == (("a", "b"), "ann", site.path, None)
        assert ann.info is info
        assert hub.get(ann.id) == ann
    until(lambda: hub.count() == 0)
    until(lambda: hub.stats()["handed_off"] == 0)
    assert hub.stats()["disconnected"] == 2
    assert ann.closed == "client"
    assert hub.get(ann.id) is None


@pytest.mark.parametrize("kind", ["def", "async"])
def test_callbacks_on_the_loop_with_reason_and_info(site: Site, kind: str) -> None:
    hub = site.hub()
    calls: list[Any] = []

    def note(*call: Any) -> None:
        asyncio.get_running_loop()
        calls.append((*call, threading.current_thread()))

    if kind == "async":

        async def connected(subscriber: Subscription) -> None:
            await asyncio.sleep(0)
            note("connected", subscriber.id, subscriber.info)

        async def disconnected(subscriber: Subscription, reason: str) -> None:
            await asyncio.sleep(0)
            note(reason, subscriber.id, subscriber.info)

        hub.on_connect(connected)
        hub.on_disconnect(disconnected)
    else:
        hub.on_connect(lambda subscriber: note("connected", subscriber.id, subscriber.info))
        hub.on_disconnect(lambda subscriber, reason: note(reason, subscriber.id, subscriber.info))
    with site.stream(hub, info="given"):
        id = only(hub).id
        until(lambda: len(calls) == 1)
    until(lambda: len(calls) == 2)
    thread = site.server._thread
    assert calls == [("connected", id, "given", thread), ("client", id, "given", thread)]


@pytest.mark.parametrize("how", ["client", "kicked"])
def test_a_background_task_runs_after_the_end(site: Site, how: str) -> None:
    hub = site.hub()
    ended: list[Any] = []

    async def background(name: str) -> None:
        ended.append((name, hub.count()))

    with site.stream(hub, background=BackgroundTask(background, "one")) as stream:
        assert ended == []
        if how == "kicked":
            hub.disconnect(id=only(hub).id)
            assert stream.rest() == []
    until(lambda: ended == [("one", 0)])


@pytest.mark.parametrize("kind", ["response", "without control", "subscription"])
def test_what_runs_at_the_end_runs_in_the_context_of_no_other_request(site: Site, kind: str) -> None:
    hub = site.hub()
    request_id = ContextVar("request_id", default="none")
    background: list[str] = []
    disconnected: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: disconnected.append(request_id.get()))

    async def ended() -> None:
        background.append(request_id.get())

    def respond(request: Request) -> Response:
        request_id.set(request.url.query)
        if kind == "subscription":
            subscription = hub.subscribe("t", user=request.url.query)
            return EventSourceResponse(subscription, background=BackgroundTask(ended))
        options: Any = {"user": request.url.query, "control": kind == "response"}
        return hub.response("t", background=BackgroundTask(ended), **options)

    site.serve(respond)
    with site.raw("/?first"):
        for leave in (False, True):
            with site.raw("/?second"):
                until(lambda: [each.path for each in hub.subscribers()] == [site.path] * 2)
                if not leave:
                    hub.disconnect(user="second")
            until(lambda: hub.count() == 1)
        until(lambda: background == ["second"] * 2)
        until(lambda: len(disconnected) == 2)
        assert {*disconnected} <= {"second", "none"}


def test_a_client_beyond_the_limit_is_asked_to_come_back_later(site: Site) -> None:
    hub = site.hub(max_subscribers=1)
    with site.stream(hub) as stream:
        for _ in range(2):
            with site.raw() as other:
                assert other.rest() == []
                assert other.ended
                assert other.parser.retry == 30_000
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert hub.stats()["turned_away"] == 2
    until(lambda: hub.count() == 0)
    with site.stream(hub) as stream:
        hub.publish("t", 2)
        assert stream.take(1) == [2]


# --- Closing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_a_closing_hub_lets_out_what_is_queued_and_may_be_used_again(site: Site, how: str) -> None:
    hub = site.hub()
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    streams = [site.stream(hub) for _ in range(3)]
    epoch = hub.stats()["epoch"]
    for n in range(100):
        hub.publish("t", n)
    if how == "close":
        hub.close()
    else:
        asyncio.run(hub.aclose())
    for stream in streams:
        assert names(stream.rest()) == [str(n) for n in range(100)]
        assert stream.ended
    until(lambda: reasons == ["hub_closed"] * 3)
    # Another epoch: what they missed in between cannot be known.
    with site.stream(hub, client={"last_event_id": streams[0].last_event_id}) as stream:
        assert stream.next().json()["reason"] == "epoch"
        assert hub.stats()["epoch"] != epoch
        hub.publish("t", "again")
        assert stream.take(1) == ["again"]
        assert {subscriber.path for subscriber in hub.subscribers()} == {site.path}
    for stream in streams:
        stream.close()


# --- Apps ------------------------------------------------------------------------------------------


def test_an_endpoint_in_a_route_with_topics_from_the_request(site: Site) -> None:
    hub = site.hub()

    async def room(request: Request) -> str:
        return f"room:{request.path_params['name']}"

    site.app = Starlette(routes=[Route("/rooms/{name}", hub.endpoint(room, replay=1))])
    hub.publish("room:one", "past")
    with site.raw("/rooms/one") as stream:
        assert stream.take(1) == ["past"]
        assert only(hub).path == site.path
        assert only(hub).topics == ("room:one",)


@pytest.mark.parametrize("kind", ["response", "response-initial", "subscription"])
def test_dependencies_with_yield_close_when_the_stream_begins(site: Site, kind: str) -> None:
    hub = site.hub()
    app = FastAPI()
    events: list[str] = []
    closed = threading.Event()

    async def session() -> AsyncIterator[str]:
        in_context = ContextVar[str]("in_context")
        token = in_context.set("x")
        yield "a database session"
        in_context.reset(token)  # raises in another task's context
        events.append("closed")
        closed.set()

    def thread_session() -> Iterator[str]:
        yield "another"
        events.append("closed")

    async def initial(_: object) -> list[str]:
        await asyncio.sleep(0.01)
        events.append("initial")
        return ["snapshot"]

    @app.get("/", dependencies=[Depends(session), Depends(thread_session)])
    async def endpoint() -> Response:
        if kind == "subscription":
            return EventSourceResponse(hub.subscribe("t"))
        return hub.response("t", initial=initial if kind == "response-initial" else None)

    site.app = app
    with site.raw() as stream:
        stream.opened()
        if kind == "response-initial":
            assert stream.take(1) == ["snapshot"]
        assert closed.wait(PATIENCE)
        assert events == ["initial"] * (kind == "response-initial") + ["closed"] * 2
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert only(hub).path == site.path


def test_held_dependencies_close_with_the_stream_and_keep_it_with_the_server(site: Site) -> None:
    hub = site.hub(handoff=True)
    app = FastAPI()
    closed = threading.Event()

    async def session() -> AsyncIterator[str]:
        yield "a database session"
        closed.set()

    @app.get("/{kind}", dependencies=[Depends(session)])
    async def endpoint(kind: str) -> Response:
        if kind == "subscription":
            return EventSourceResponse(hub.subscribe("t"), hold_dependencies=True)
        return hub.response("t", hold_dependencies=True)

    site.app = app
    for kind in ("subscription", "response"):
        closed.clear()
        with site.raw(f"/{kind}") as stream:
            stream.opened()
            hub.publish("t", 1)
            assert stream.take(1) == [1]
            assert only(hub).path == "loop"
            assert not closed.is_set()
        assert closed.wait(PATIENCE)
        until(lambda: hub.count() == 0)
    assert hub.stats()["stayed"] == {"hold_dependencies": 2}


def test_a_dependency_that_fails_when_it_closes_ends_no_stream(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    hub = site.hub()
    app = FastAPI()

    async def session() -> AsyncIterator[str]:
        yield "a database session"
        raise RuntimeError("the database is gone")

    @app.get("/", dependencies=[Depends(session)])
    async def endpoint() -> Response:
        return hub.response("t")

    site.app = app
    with caplog.at_level("CRITICAL", "sse_hub"), site.raw() as stream:
        stream.opened()
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert only(hub).path == site.path


def test_handoff_false_stays_with_the_server(site: Site) -> None:
    hub = site.hub()
    site.app = hub.endpoint("t", handoff=False)
    with site.raw() as stream:
        stream.opened()
        assert only(hub).path == "loop"
        hub.publish("t", 1)
        assert stream.take(1) == [1]


@pytest.mark.parametrize("layers", [(), (Middleware(Passing),)], ids=["alone", "behind middleware"])
def test_a_client_that_resets_before_a_long_replay_is_no_warning(
    site: Site, layers: tuple[Middleware, ...]
) -> None:
    hub = site.hub(history=2000)
    for n in range(2000):
        hub.publish("t", f"{n:01000}")
    asked, left = threading.Event(), threading.Event()

    def make(request: Request) -> Response:
        asked.set()
        left.wait(PATIENCE)  # on the loop, which sees the reset only after the first write
        return hub.response("t", replay="all", handoff=False)

    site.serve(make, *layers)
    with quiet():
        stream = site.raw()
        assert asked.wait(PATIENCE)
        reset(stream.sock)
        left.set()
        until(lambda: hub.stats()["disconnected"] == 1)
