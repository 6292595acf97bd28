"""Who may listen, and for how long: through real sockets and on both paths."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sse_hub import EndReason, EventSourceResponse, Hub, TooManyTopics
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import PATIENCE, until
from wire import WAYS, Site, names, only

SITES = tuple(WAYS)


def ask(site: Site, last: str = "") -> httpx.Response:
    """The answer to a request that gets no stream."""
    headers = {"Last-Event-ID": last} if last else {}
    return httpx.get(f"http://127.0.0.1:{site.port}/", headers=headers, timeout=PATIENCE)


def ends(hub: Hub) -> list[EndReason]:
    """Why its streams end from now on."""
    reasons: list[EndReason] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    return reasons


@contextmanager
def expected(message: str) -> Iterator[None]:
    """The library logs this message, which would fail the test otherwise."""
    seen: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        seen.append(record.getMessage())
        return record.getMessage() != message

    logger = logging.getLogger("sse_hub")
    logger.addFilter(take)
    try:
        yield
    finally:
        logger.removeFilter(take)
    assert message in seen


# --- Authorizations that expire --------------------------------------------------------------------


def test_a_stream_ends_when_its_authorization_expires(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)
    hub.publish("t", 1)
    expires = datetime.now(UTC) + timedelta(seconds=2)
    with site.stream(hub, expires=expires, replay=1) as stream:
        assert names(stream.rest()) == ["1"]
        assert datetime.now(UTC) > expires - timedelta(seconds=0.2), "a twentieth early at most"
        assert stream.ended, "the body is complete, so that a browser comes back"
    until(lambda: reasons == ["expired"])
    assert reasons[0].kind == "expired"
    assert hub.stats()["ends"]["expired"] == 1
    until(lambda: datetime.now(UTC) > expires)
    answer = ask(site, stream.last_event_id)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["cache-control"] == "no-store"


def test_the_earlier_of_two_limits_ends_the_stream(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)
    with site.stream(hub, expires=time.time() + 3600, max_age=0.2) as stream:
        assert stream.rest() == []
    until(lambda: reasons == ["max_age"])


def test_a_subscription_of_the_applications_own_expires(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)

    async def events(request: Request) -> Response:
        return EventSourceResponse(hub.subscribe("t", expires=time.time() + 0.5))

    site.app = Starlette(routes=[Route("/", events)])
    with site.raw() as stream:
        stream.opened()
        assert stream.rest() == []
        assert stream.ended
    until(lambda: reasons == ["expired"])


@pytest.mark.parametrize("options", [{}, {"control": False}, {"hold_dependencies": True}])
def test_an_authorization_that_has_expired_gets_a_401(site: Site, options: dict[str, Any]) -> None:
    hub = site.hub()
    site.app = hub.endpoint("t", expires=time.time() - 1, **options)
    assert ask(site).status_code == 401
    assert hub.stats()["connected"] == 0


# --- Topics that the application allows ------------------------------------------------------------


def test_the_application_decides_who_listens_to_what(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)
    rights = {"ann": {"a", "b"}}
    asked: list[str | None] = []

    @hub.authorize(every=0.1)
    async def allowed(user: str | None, topics: frozenset[str]) -> set[str]:
        asked.append(user)
        return rights.get(user or "", set())

    with site.stream(hub, ["a", "b", "c"], user="ann") as stream:
        assert only(hub).topics == ("a", "b")
        rights["ann"] = {"b"}
        until(lambda: only(hub).topics == ("b",))
        for topic in "abc":
            hub.publish(topic, topic)
        assert stream.take(1) == ["b"]
        rights.clear()
        assert stream.rest() == []
        assert stream.ended, "the body is complete, so that a browser comes back"
    until(lambda: reasons == ["revoked"])
    assert hub.stats()["ends"]["revoked"] == 1
    assert ask(site, stream.last_event_id).status_code == 403


def test_it_is_asked_again_in_the_context_of_no_request(site: Site) -> None:
    hub = site.hub()
    request_id = ContextVar("request_id", default="none")
    asked: list[str] = []

    @hub.authorize(every=0.05)
    async def allowed(user: str | None, topics: frozenset[str]) -> frozenset[str]:
        asked.append(request_id.get())
        return topics

    def respond(request: Request) -> Response:
        request_id.set(request.url.query)
        return hub.response("t", user=request.url.query)

    site.serve(respond)
    with site.raw("/?ann"), site.raw("/?bob"):
        until(lambda: len(asked) > 8)
    assert sorted(asked)[:2] == ["ann", "bob"]
    assert {*sorted(asked)[2:]} == {"none"}


def test_each_user_is_asked_about_again_and_again(site: Site) -> None:
    hub = site.hub()
    asked: Counter[str | None] = Counter()

    @hub.authorize(every=0.01)
    async def allowed(user: str | None, topics: frozenset[str]) -> frozenset[str]:
        asked[user] += 1
        return topics

    site.serve(lambda request: hub.response("t", user=request.url.query))
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context(site.raw(f"/?{number}"))
        until(lambda: len(asked) == 20 and min(asked.values()) > 10)


@pytest.mark.parametrize("control", [True, False])
def test_nobody_listens_while_the_application_does_not_answer(site: Site, control: bool) -> None:
    hub = site.hub()

    @hub.authorize()
    async def allowed(user: str | None, topics: frozenset[str]) -> set[str]:
        raise ConnectionError("the database is away")

    site.app = hub.endpoint("t", control=control)
    with expected("hub 'default': authorize failed for a newcomer, who comes back later"):
        answer = ask(site)
    if control:
        assert (answer.status_code, answer.content) == (200, b"retry: 30000\n\n")
    else:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert hub.stats()["connected"] == 0


# --- Limits ----------------------------------------------------------------------------------------


def test_a_user_has_at_most_so_many_streams(site: Site) -> None:
    hub = site.hub(max_per_user=2)
    with site.stream(hub, user="ann"), site.stream(hub, user="ann") as second:
        answer = ask(site)
        assert answer.status_code == 200
        assert answer.content.endswith(b"retry: 30000\n\n")
        with site.stream(hub, user="bob"), site.stream(hub), site.stream(hub), site.stream(hub):
            assert hub.count() == 6
        assert hub.stats()["turned_away"] == 1
        second.close()
        until(lambda: hub.count() == 1)
        with site.stream(hub, user="ann") as again:
            hub.publish("t", 1)
            assert again.take(1) == [1]


@pytest.mark.parametrize("options", [{}, {"control": False}])
def test_a_program_is_told_to_come_back_later(site: Site, options: dict[str, Any]) -> None:
    hub = site.hub(max_per_user=1, full_status=503)
    with site.stream(hub, user="ann"):
        site.app = hub.endpoint("t", user="ann", **options)
        answer = ask(site)
        assert (answer.status_code, answer.headers["retry-after"], answer.content) == (429, "30", b"")


def test_a_page_that_is_reloaded_keeps_its_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_hub._responses.streaming_hub._RELOAD", PATIENCE)
    hub = site.hub(max_per_user=1)
    asked: list[str | None] = []

    @hub.authorize()
    def allowed(user: str | None, topics: frozenset[str]) -> frozenset[str]:
        asked.append(user)
        return topics

    with site.stream(hub, user="ann") as first, site.raw() as second:
        until(lambda: len(asked) == 2)
        first.close()
        second.opened()
        hub.publish("t", 1)
        assert second.take(1) == [1]


def test_a_stream_has_at_most_so_many_topics(site: Site) -> None:
    hub = site.hub(max_topics=2)
    site.app = hub.endpoint(["a", "b", "c"])
    assert ask(site).status_code == 400
    with site.stream(hub, ["a", "b", "a"]):
        with pytest.raises(TooManyTopics, match="3 topics are more than max_topics=2; nothing has changed"):
            only(hub).join("c")
        assert only(hub).topics == ("a", "b")
        assert only(hub).leave("a")
        assert only(hub).join("c")
