"""Topics that end, as clients see it on every path: the last events, the end of the body, and 204."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import httpx
import pytest
from sse_hub import EndReason, EventSourceResponse, Hub, Subscription, TopicEnded
from sse_hub._testing.event_parser import EventParser
from sse_hub.testing import Clock
from starlette.requests import Request
from starlette.responses import Response
from waiting import until
from wire import WAYS, Site

SITES = tuple(WAYS)


def answer(site: Site, id: str | None) -> httpx.Response:
    headers = {"Last-Event-ID": id} if id else {}
    return httpx.get(f"http://127.0.0.1:{site.port}/", headers=headers, timeout=30, trust_env=False)


def test_a_stream_gets_what_waits_and_ends(site: Site) -> None:
    hub, reasons = site.hub(), []
    hub.on_disconnect(lambda _, reason: reasons.append(reason))
    with site.stream(hub) as stream, site.stream(hub, ["t", "other"]) as other:
        hub.publish("t", 1)
        end = hub.end("t")
        assert [(event.event, event.data) for event in stream.rest()] == [
            ("message", "1"),
            ("stream-end", '{"state":"ended"}'),
        ]
        assert stream.ended, "the body came to its end"
        assert stream.last_event_id == end.id
        until(lambda: reasons)
        assert isinstance(reasons[0], EndReason)
        assert (reasons[0], reasons[0].kind) == ("ended", "ended")
        hub.publish("other", 2)
        assert other.take(2) == [1, 2]
        hub.end("other")
        assert [event.event for event in other.rest()] == ["stream-end"]
    assert hub.count() == 0


def test_later_clients_get_what_is_kept_and_then_the_end(site: Site) -> None:
    hub = site.hub()
    first = hub.publish("t", 1).id
    hub.publish("t", 2)
    end = hub.end("t").id
    site.app = hub.endpoint("t", replay="all")
    for id, expected in [("", ["1", "2"]), (first or "", ["2"])]:
        with site.raw(last_event_id=id) as stream:
            assert [event.data for event in stream.rest()] == [*expected, '{"state":"ended"}']
            assert stream.ended
            assert stream.last_event_id == end


def test_a_client_with_the_end_gets_204(site: Site) -> None:
    hub = site.hub()
    before = hub.publish("t", 1).id
    end, later = hub.end("t").id, hub.publish("other", 1).id

    async def subscribed(scope: Any, receive: Any, send: Any) -> None:
        id = Request(scope).headers.get("last-event-id")
        response = EventSourceResponse(hub.subscribe("t", last_event_id=id, replay="all"))
        await response(scope, receive, send)

    for app in (hub.endpoint("t"), subscribed):
        site.app = app
        assert answer(site, before).status_code == 200
        response = answer(site, end)
        assert (response.status_code, response.content) == (204, b"")
        assert "content-type" not in response.headers
        assert "content-length" not in response.headers
        assert answer(site, later).status_code == 200, "it may not have had the end"
        until(lambda: hub.count() == 0)
    site.app = hub.endpoint(["t", "other"])
    last = hub.end("other").id
    assert [answer(site, id).status_code for id in (end, last)] == [200, 204]


def test_a_client_without_control_events_gets_204_once_nothing_is_left_for_it(site: Site) -> None:
    """No event of its stream has the id of the end."""
    hub = site.hub()
    first = hub.publish("t", 1).id
    ways: list[dict[str, Any]] = [{"topics": "t"}, {"topics": "t", "replay": "all"}]
    site.app = hub.endpoint("t", control=False, replay="all")
    with site.raw() as live:
        assert live.take(1) == [1]
        hub.publish("t", 2)
        hub.end("t")
        later = hub.publish("other", 3).id
        assert [event.data for event in live.rest()] == ["2"]
        assert live.ended
    with site.raw() as late:
        assert [event.data for event in late.rest()] == ["1", "2"]
    assert late.last_event_id == live.last_event_id
    for way in ways:
        site.app = hub.endpoint(control=False, **way)
        statuses = [answer(site, id).status_code for id in (first, live.last_event_id, later)]
        assert statuses == [200, 204, 204]
    until(lambda: hub.count() == 0)


def test_a_client_that_is_cut_before_the_end_comes_back_for_it(site: Site) -> None:
    """Whatever it has received by then, if only the opening of its stream."""
    hub = site.hub()
    hub.publish("t", 1)
    for topic in ("t", "empty"):
        hub.end(topic)
    hub.publish("other", 1)
    later = hub.broadcast(2).id or ""

    async def rows(_: Subscription) -> list[int]:
        return [3, 4]

    ways: list[dict[str, Any]] = [{}, {"replay": "all"}, {"initial": rows}]
    for topic, options in itertools.product(("t", "empty"), ways):
        site.app = hub.endpoint(topic, **options)
        for came in ("", "none-1", later):
            parser = EventParser(came)
            parser.feed(answer(site, came).content)
            *before, end = [event for event in parser.events if not event.is_comment]
            assert end.event == "stream-end"
            for event in before:
                again = answer(site, event.id)
                assert again.status_code == 200, (topic, options, event)
                assert b"event: stream-end" in again.content
            assert answer(site, end.id).status_code == 204, (topic, options, came)
    until(lambda: hub.count() == 0)


def test_a_background_task_runs_when_there_is_nothing_to_stream(site: Site) -> None:
    from starlette.background import BackgroundTask

    hub, ran = site.hub(), threading.Event()
    end = hub.end("t").id
    site.app = hub.response("t", background=BackgroundTask(ran.set))
    assert answer(site, end).status_code == 204
    assert ran.wait(30)


def test_a_topic_without_a_client_can_end(site: Site) -> None:
    hub = site.hub()
    hub.end("never used")
    with site.stream(hub, "never used") as stream:
        assert [event.event for event in stream.rest()] == ["stream-end"]


def test_publishing_to_what_has_ended_raises() -> None:
    with Hub() as hub:
        hub.end("t")
        for call in (
            lambda: hub.publish("t", 1),
            lambda: hub.publish(["other", "t"], 1),
            lambda: hub.end("t"),
        ):
            with pytest.raises(TopicEnded, match='"t" has ended'):
                call()
        hub.publish("other", 1)
        hub.broadcast(1)
        for keep in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="keep"):
                hub.end("other", keep=keep)
        with pytest.raises(ValueError, match="empty"):
            hub.end("")


async def test_a_name_is_free_after_keep() -> None:
    clock = Clock()
    hub = clock.hub()
    hub.publish("t", "old")
    hub.end("t", keep=60)
    await clock.advance(59)
    with pytest.raises(TopicEnded):
        hub.publish("t", 1)
    await clock.advance(1)
    hub.publish("t", "new")
    assert hub.stats()["history_events"] == 1


def test_a_middleware_sees_204(site: Site) -> None:
    """The refusal is a response like any other."""
    hub, seen = site.hub(), []
    end = hub.end("t").id
    endpoint = hub.endpoint("t")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            seen.append(message["type"])
            await send(message)

        await endpoint(scope, receive, note)

    site.app = app
    assert answer(site, end).status_code == 204
    until(lambda: seen == ["http.response.start", "http.response.body"])
    assert isinstance(hub.response("t"), Response)
