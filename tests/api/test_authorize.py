"""``Hub.authorize``: who may listen to what, asked when a stream begins, at a join, and again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from sse_hub import EndReason, Hub, NotAuthorized
from sse_hub.testing import Clock, EventClient, connect
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import until_async


class Rights:
    """What each user may listen to, and what was asked."""

    def __init__(self, hub: Hub, kind: str = "async", every: float = 30) -> None:
        self.of: dict[str | None, set[str]] = {}
        self.asked: list[tuple[str | None, set[str]]] = []
        self.failure: BaseException | None = None
        self.ends: list[EndReason] = []
        hub.on_disconnect(lambda subscriber, reason: self.ends.append(reason))
        hub.authorize(every=every)(self.allowed if kind == "def" else self.allowed_later)

    def allowed(self, user: str | None, topics: frozenset[str]) -> Iterable[str]:
        self.asked.append((user, set(topics)))
        if self.failure is not None:
            raise self.failure
        return self.of.get(user, ())

    async def allowed_later(self, user: str | None, topics: frozenset[str]) -> Iterable[str]:
        await asyncio.sleep(0)
        return self.allowed(user, topics)


def app_of(hub: Hub) -> Starlette:
    """``/?user=ann&topic=a&topic=b`` streams these topics to this user."""

    async def events(request: Request) -> Response:
        query = request.query_params
        return hub.response(query.getlist("topic"), user=query.get("user"))

    return Starlette(routes=[Route("/", events)])


async def listen(hub: Hub, user: str, *topics: str) -> EventClient:
    url = f"/?user={user}" + "".join(f"&topic={topic}" for topic in topics)
    return await connect(app_of(hub), url)


async def test_a_newcomer_gets_the_topics_it_may_listen_to(clock: Clock) -> None:
    hub = clock.hub()
    rights = Rights(hub)
    rights.of = {"ann": {"a", "b", "other"}}
    client = await listen(hub, "ann", "a", "b", "c")
    assert rights.asked == [("ann", {"a", "b", "c"})]
    assert hub.subscribers()[0].topics == ("a", "b")
    hub.publish("c", 1)
    hub.publish("b", 2)
    assert (await client.next()).json() == 2
    await client.close()


async def test_a_user_who_may_listen_to_nothing_gets_a_403(clock: Clock) -> None:
    hub = clock.hub()
    rights = Rights(hub)
    client = await listen(hub, "ann", "a")
    assert (client.status_code, await client.read()) == (403, b"")
    rights.failure = HTTPException(204)
    client = await listen(hub, "ann", "a")
    assert client.status_code == 204
    assert hub.stats()["connected"] == 0


async def test_a_stream_without_topics_is_not_asked_about(clock: Clock) -> None:
    hub = clock.hub()
    rights = Rights(hub)
    client = await listen(hub, "ann")
    await clock.advance(100)
    hub.broadcast("for all")
    assert (await client.next()).json() == "for all"
    assert rights.asked == []
    await client.close()


async def test_one_question_is_for_all_streams_of_a_user(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    rights = Rights(hub)
    rights.of = {"ann": {"a", "b", "c"}, "bob": {"a"}}
    clients = [await listen(hub, *who) for who in (("ann", "a", "b"), ("ann", "c"), ("bob", "a"))]
    rights.asked.clear()
    await clock.advance(30)
    assert sorted(rights.asked, key=str) == [("ann", {"a", "b", "c"}), ("bob", {"a"})]
    await clock.advance(14)
    assert len(rights.asked) == 2, "twice three quarters of the time at least"
    await clock.advance(16)
    assert len(rights.asked) == 4
    for client in clients:
        await client.close()
    await clock.advance(30)
    rights.asked.clear()
    await clock.advance(300)
    assert rights.asked == []


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_topic_that_is_taken_away_is_left(clock: Clock, kind: str) -> None:
    hub = clock.hub(heartbeat=None)
    rights = Rights(hub, kind)
    rights.of = {"ann": {"a", "b"}}
    client = await listen(hub, "ann", "a", "b")
    rights.of["ann"] = {"b"}
    await clock.advance(30)
    assert hub.subscribers()[0].topics == ("b",)
    hub.publish("a", 1)
    hub.publish("b", 2)
    assert (await client.next()).json() == 2
    await client.close()


async def test_the_last_topic_ends_the_stream_and_the_next_request_is_refused(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    rights = Rights(hub)
    rights.of = {"ann": {"a"}, "bob": {"a"}}
    ann, bob = await listen(hub, "ann", "a"), await listen(hub, "bob", "a")
    hub.publish("a", "before")
    del rights.of["ann"]
    await clock.advance(30)
    assert [event.json() for event in await ann.rest()] == ["before"]
    assert [(reason, reason.kind) for reason in rights.ends] == [("revoked", "revoked")]
    assert (await ann.reconnect()).status_code == 403
    hub.publish("a", "after")
    assert [event.json() for event in await bob.take(2)] == ["before", "after"]
    await bob.close()


async def test_a_question_that_fails_is_repeated_and_closes_in_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    hub = clock.hub(heartbeat=None, name="news")
    rights = Rights(hub, every=40)
    rights.of = {"ann": {"a"}}
    client = await listen(hub, "ann", "a")
    rights.failure = ConnectionError("the database is away")
    await clock.advance(79)
    assert len(rights.asked) >= 5
    assert rights.ends == []
    hub.publish("a", 1)
    await clock.advance(1)
    assert rights.ends == ["revoked"]
    assert [event.json() for event in await client.rest()] == [1]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "authorize failed for user 'ann'" in record.message
    assert "until the last answer is 80 seconds old" in record.message


async def test_a_question_that_failed_for_a_while_changes_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    hub = clock.hub(heartbeat=None)
    rights = Rights(hub, every=40)
    rights.of = {"ann": {"a"}}
    client = await listen(hub, "ann", "a")
    rights.failure = ConnectionError("the database is away")
    await clock.advance(60)
    rights.failure = None
    await clock.advance(1000)
    hub.publish("a", 1)
    assert (await client.next()).json() == 1
    assert [record.message for record in caplog.records][1:] == ["hub 'default': authorize answers again"]
    await client.close()


async def test_an_http_error_takes_everything_away_at_once(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    rights = Rights(hub)
    rights.of = {"ann": {"a"}}
    client = await listen(hub, "ann", "a")
    rights.failure = HTTPException(401)
    await clock.advance(30)
    assert await client.rest() == []
    assert rights.ends == ["revoked"]
    assert (await client.reconnect()).status_code == 401


@pytest.mark.parametrize(("full_status", "status"), [(200, 200), (503, 503)])
@pytest.mark.parametrize("answer", [RuntimeError("broken"), None, 7])
async def test_a_newcomer_comes_back_later_if_the_question_fails(
    clock: Clock, full_status: Any, status: int, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    hub = clock.hub(full_status=full_status)

    @hub.authorize()
    def allowed(user: str | None, topics: frozenset[str]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = await listen(hub, "ann", "a")
    assert client.status_code == status
    if status == 200:
        assert await client.rest() == []
        assert client.retry == 30_000
    else:
        assert client.headers["retry-after"] == "30"
    assert hub.stats()["connected"] == 0
    assert "authorize failed for a newcomer" in caplog.text


async def test_a_join_is_asked_about(clock: Clock) -> None:
    hub = clock.hub()
    rights = Rights(hub, "def")
    rights.of = {"ann": {"a", "b"}}
    stream = hub.subscribe("a", user="ann")
    assert stream.join("b")
    with pytest.raises(NotAuthorized, match=r"user 'ann' may not listen to 'c', 'd'; nothing has changed"):
        stream.join(["b", "d", "c"])
    assert await stream.ajoin(iter(["b"]))
    with pytest.raises(NotAuthorized):
        await stream.ajoin("c")
    with pytest.raises(ValueError, match="must not be empty"):
        stream.ajoin("")
    assert stream.topics == ("a", "b")
    with pytest.raises(NotAuthorized):
        hub.subscribe("c", user="ann")


async def test_what_cannot_wait_refuses_an_async_function(clock: Clock) -> None:
    hub = clock.hub()
    rights = Rights(hub)
    rights.of = {"ann": {"a", "b"}}
    with pytest.raises(RuntimeError, match=r"authorize's function is async: return Hub.response"):
        hub.subscribe("a", user="ann")
    client = await listen(hub, "ann", "a")
    (stream,) = hub.subscribers()
    with pytest.raises(RuntimeError, match=r"await Subscription\.ajoin"):
        stream.join("b")
    assert await stream.ajoin("b")
    assert stream.topics == ("a", "b")
    await client.close()
    assert not await stream.ajoin("b")


async def test_ajoin_without_a_function_joins() -> None:
    stream = Hub().subscribe("a")
    assert await stream.ajoin(["b", "c"])
    assert stream.topics == ("a", "b", "c")


async def test_it_asks_on_the_machines_clock_too() -> None:
    hub = Hub()
    rights = Rights(hub, every=0.1)
    rights.of = {"ann": {"a"}}
    client = await listen(hub, "ann", "a")
    await until_async(lambda: len(rights.asked) > 3)
    rights.of.clear()
    assert await client.rest(60) == []
    assert rights.ends == ["revoked"]


def test_what_authorize_takes() -> None:
    hub = Hub()
    for every in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="every must be a number of seconds more than 0, not"):
            hub.authorize(every=every)
    with pytest.raises(TypeError, match="every is a number of seconds, not str"):
        hub.authorize(every="30")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="authorize takes a function, def or async, not int"):
        hub.authorize()(7)  # type: ignore[type-var]
    hub.authorize()(lambda user, topics: topics)
    with pytest.raises(RuntimeError, match="has an authorize function already"):
        hub.authorize()(lambda user, topics: topics)


async def test_it_may_be_registered_without_parentheses() -> None:
    hub = Hub()

    @hub.authorize
    def only_news(user: str | None, topics: frozenset[str]) -> Iterable[str]:
        return topics & {"news"}

    assert only_news("ann", frozenset({"news", "other"})) == {"news"}
    client = await listen(hub, "ann", "news", "other")
    assert [subscription.topics for subscription in hub.subscribers()] == [("news",)]
    await client.close()
