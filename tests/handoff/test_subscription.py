"""``EventSourceResponse(subscription)``: handed off like a hub's own response, with what it has by then."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import weakref
from typing import Any

import pytest
from asgi_layers import Awaiting
from run_sources import Gate
from sse_hub import EventSourceResponse, Hub, Subscription
from sse_hub.sse import AppStatus
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from waiting import PATIENCE, until
from wire import WAYS, Site, Stream, only

SITES = tuple(way for way, (path, _) in WAYS.items() if path == "reactor")


def opened(site: Site, hub: Hub, **options: Any) -> Stream:
    stream = site.raw(**options)
    stream.opened()
    until(lambda: hub.stats()["handed_off"] == hub.count() > 0)
    return stream


# --- What arrives ----------------------------------------------------------------------------------


def test_it_is_handed_off_and_its_dependencies_and_tasks_end(site: Site) -> None:
    hub = site.hub()
    passed: list[int] = []
    responses: list[weakref.ref[Response]] = []

    def subscribed(request: Request) -> Response:
        response = EventSourceResponse(hub.subscribe("t"))
        responses.append(weakref.ref(response))
        return response

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            response = await call_next(request)
            passed.append(response.status_code)
            return response

    site.serve(subscribed, Middleware(Passing))
    with opened(site, hub) as one, opened(site, hub) as other:
        hub.publish("t", 1)
        assert (one.take(1), other.take(1)) == ([1], [1])
        assert b"cache-control: no-store" in one.head.lower()
        until(lambda: passed == [200, 200])
        until(lambda: gc.collect() >= 0 and [made() for made in responses] == [None, None])
        hub.close(1)
        for stream in (one, other):
            assert stream.rest() == []
            assert stream.ended


@pytest.mark.parametrize("kind", ["hub.response", "EventSourceResponse"])
def test_middleware_may_take_its_time_after_each_message(site: Site, kind: str) -> None:
    hub = site.hub()

    def make(request: Request) -> Response:
        return hub.response("t") if kind == "hub.response" else EventSourceResponse(hub.subscribe("t"))

    site.serve(make, Middleware(Awaiting))
    with opened(site, hub) as stream:
        hub.publish("t", 1)
        assert stream.take(1) == [1]


def test_what_came_before_the_response_arrives_once_and_in_order(site: Site) -> None:
    hub = site.hub()

    def make(request: Request) -> Response:
        subscription = hub.subscribe("t")
        hub.publish("t", 1)
        hub.publish("other", "not its topic")
        subscription.send(2)
        hub.broadcast(3)
        return EventSourceResponse(subscription)

    site.serve(make)
    with opened(site, hub) as stream:
        hub.publish("t", 4)
        assert stream.take(4) == [1, 2, 3, 4]
        stream.silent()


def test_a_publisher_that_races_with_every_move(site: Site) -> None:
    # The first streams are read again when all have come, however long that takes.
    hub = site.hub(capacity=10_000_000, capacity_bytes=2**32, stall_timeout=3600)
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.wait(0.0002):
            hub.publish("t", number)
            number += 1

    site.serve(lambda request: EventSourceResponse(hub.subscribe("t")))
    thread = threading.Thread(target=publish)
    thread.start()
    streams: list[Stream] = []
    try:
        for _ in range(60):
            streams.append(site.raw())
            numbers = streams[-1].take(10)  # few: what the others get meanwhile is read below
            assert numbers == [*range(numbers[0], numbers[0] + 10)]
    finally:
        stop.set()
        thread.join()
    assert hub.stats()["handed_off"] == hub.count() == 60
    last = hub.publish("t", "last").id
    for stream in streams:
        expected = numbers_after = 0
        while (event := stream.event()).id != last:
            expected = expected or event.json()
            assert event.json() == expected + numbers_after
            numbers_after += 1
        stream.close()


def test_a_client_that_resumes_gets_what_it_missed(site: Site) -> None:
    hub = site.hub(history=3)
    ids = [hub.publish("t", n).id for n in range(5)]
    site.serve(
        lambda request: EventSourceResponse(
            hub.subscribe("t", last_event_id=request.headers.get("last-event-id"))
        ),
    )
    with opened(site, hub, last_event_id=ids[2]) as stream:
        assert only(hub).recovered is True
        hub.publish("t", 5)
        assert stream.take(3) == [3, 4, 5]
    until(lambda: hub.count() == 0)
    with opened(site, hub, last_event_id=ids[0]) as stream:
        assert only(hub).recovered is False
        reset = stream.next()
        assert (reset.event, reset.json()["reason"]) == ("stream-reset", "evicted")
        assert stream.take(3) == [3, 4, 5], "what is left of it"


# --- The same object, after the move ---------------------------------------------------------------


def test_the_subscription_goes_on_through_the_same_object(site: Site) -> None:
    hub = site.hub()
    kept: list[Subscription] = []

    def make(request: Request) -> Response:
        kept.append(hub.subscribe("a", user="ann", info={"since": "today"}))
        (other,) = hub.subscribers()  # a handle from before the move
        kept.append(other)
        return EventSourceResponse(kept[0])

    site.serve(make)
    with opened(site, hub) as stream:
        own, handle = kept
        for subscription in (own, handle, only(hub)):
            assert subscription == own
            assert (subscription.path, subscription.user, subscription.closed) == ("reactor", "ann", None)
            assert subscription.info == {"since": "today"}
        assert own.join(["b", "c"])
        assert handle.leave("a")
        assert own.topics == handle.topics == ("b", "c")
        hub.publish("a", "left")
        hub.publish("b", 1)
        own.send(2)
        assert hub.send(own.id, 3).result() is None
        assert stream.take(3) == [1, 2, 3]
        with pytest.raises(StopAsyncIteration):
            asyncio.run(anext_of(own))
        hub.publish("b", 4)
        assert stream.take(1) == [4]
        handle.close()
        assert stream.rest() == []
        assert stream.ended
        until(lambda: own.closed == handle.closed == "closed")
        assert hub.count() == 0
        assert own.topics == ("b", "c"), "those it had"
        assert not own.join("d")


async def anext_of(subscription: Subscription) -> bytes:
    return await anext(subscription)


def test_a_subscription_that_is_dropped_after_the_move_goes_on(site: Site) -> None:
    hub = site.hub()
    kept: list[Subscription] = []

    def make(request: Request) -> Response:
        kept.append(hub.subscribe("t"))
        return EventSourceResponse(kept[0])

    site.serve(make)
    with opened(site, hub) as stream:
        kept.clear()
        gc.collect()
        hub.publish("t", 1)
        assert stream.take(1) == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_many_that_come_and_go_leave_nothing_behind(site: Site) -> None:
    hub = site.hub()
    ended: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: ended.append(reason))
    site.serve(lambda request: EventSourceResponse(hub.subscribe("t", info=object(), max_age=3600)))

    def churn(rounds: int) -> tuple[int, int]:
        for _ in range(rounds):
            sockets = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(50)]
            for sock in sockets:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: hub.stats()["handed_off"] == 50)
            for sock in sockets:
                sock.close()
            until(lambda: hub.count() == 0)
        until(lambda: len(ended) == hub.stats()["connected"])
        ended.sort()
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    descriptors, objects = churn(2)
    until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    churn(10)
    # What a loop and a server hold of the last ones is let go a few turns later.
    until(lambda: gc.collect() >= 0 and len(gc.get_objects()) - objects < 200)
    until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    assert (hub.stats()["disconnected"], hub.stats()["backlog_bytes"]) == (600, 0)


# --- The end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["client", "kicked", "closed", "max_age", "hub_closed"])
def test_background_and_on_disconnect_run_when_the_stream_ends(site: Site, how: str) -> None:
    hub = site.hub()
    ends: list[Any] = []
    loops: set[Any] = set()

    @hub.on_disconnect
    async def gone(subscriber: Subscription, reason: str) -> None:
        loops.add(asyncio.get_running_loop())
        ends.append((subscriber.info, subscriber.path, reason))

    async def background() -> None:
        loops.add(asyncio.get_running_loop())
        ends.append("background")

    def make(request: Request) -> Response:
        loops.add(asyncio.get_running_loop())
        subscription = hub.subscribe("t", info="mine", max_age=0.3 if how == "max_age" else None)
        return EventSourceResponse(subscription, background=BackgroundTask(background))

    site.serve(make)
    with site.raw() as stream:
        stream.opened()
        if how != "max_age":  # which may end at any time
            until(lambda: hub.stats()["handed_off"] == 1)
            assert ends == []
        if how == "client":
            stream.close()
        elif how == "kicked":
            hub.disconnect(id=only(hub).id, reason="kicked")
        elif how == "closed":
            only(hub).close()
        elif how == "hub_closed":
            threading.Thread(target=hub.close).start()
        if how != "client":
            assert stream.rest() == []
            assert stream.ended
    until(lambda: len(ends) == 2)
    assert sorted(ends, key=str) == [("mine", "reactor", how), "background"]
    assert len(loops) == 1


def test_one_that_ends_before_it_is_handed_off(site: Site) -> None:
    hub = site.hub()
    ends: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: ends.append(reason))

    def make(request: Request) -> Response:
        subscription = hub.subscribe("t")
        hub.publish("t", 1)
        hub.disconnect(id=subscription.id, reason="out")
        hub.publish("t", 2)
        return EventSourceResponse(subscription, background=BackgroundTask(ends.append, "background"))

    site.serve(make)
    with site.raw() as stream:
        assert [event.data for event in stream.rest() if not event.is_comment] == ["1"]
        assert stream.ended
    until(lambda: sorted(ends) == ["background", "out"])
    assert hub.count() == 0


def test_the_switch_of_sse_starlette_ends_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, other = site.hub(), site.hub()
    site.serve(lambda request: EventSourceResponse(hub.subscribe("t")))
    with opened(site, hub) as stream, site.stream(other) as stays:
        site.serve(lambda request: EventSourceResponse(hub.subscribe("t")))
        monkeypatch.setattr(AppStatus, "should_exit", True)
        assert stream.rest() == []
        assert stream.ended
        with site.raw() as late:
            late.rest()
            assert late.ended, "and one that begins later"
        monkeypatch.setattr(AppStatus, "should_exit", False)
        other.publish("t", 1)
        assert stays.take(1) == [1], "a hub's own response is none of its streams"


@pytest.mark.parametrize("by", ["the loop's thread", "another thread"])
def test_the_switch_of_sse_starlette_stops_no_run(
    site: Site, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    hub, gate, loops = site.hub(), Gate(), []

    def make(request: Request) -> Response:
        loops.append(asyncio.get_running_loop())
        return EventSourceResponse(hub.subscribe("r"))

    async def switch() -> None:
        monkeypatch.setattr(AppStatus, "should_exit", True)

    site.serve(make)
    with opened(site, hub) as stream:
        run = asyncio.run_coroutine_threadsafe(hub.run("r", gate.source, 1), loops[0]).result(PATIENCE)
        assert stream.take(1) == [1]
        if by == "another thread":
            asyncio.run(switch())
        else:
            asyncio.run_coroutine_threadsafe(switch(), loops[0]).result(PATIENCE)
        stream.rest()
        assert stream.ended
        assert run.state == "running"
        monkeypatch.setattr(AppStatus, "should_exit", False)
        loops[0].call_soon_threadsafe(gate.steps.put_nowait, None)
        until(lambda: run.state == "done")
