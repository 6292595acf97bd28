"""Callbacks, counts, limits and closing: a hub's life, and its next one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import asynccontextmanager
from typing import Any

import pytest
from live import serve
from sse_hub import EndKind, EventSourceResponse, Hub, HubFull, HubResponse, Subscription
from sse_hub.testing import connect, lifespan
from starlette.applications import Starlette
from starlette.routing import Route
from waiting import PATIENCE, until_async


async def test_callbacks_tell_who_came_and_who_went_and_why() -> None:
    hub = Hub()
    log: list[Any] = []

    @hub.on_connect
    def came(subscription: Subscription) -> None:
        log.append(("came", subscription.user, subscription.topics, subscription.closed))
        subscription.send("hello")

    @hub.on_connect
    async def came_later(subscription: Subscription) -> None:
        await asyncio.sleep(0)
        log.append(("came later", subscription.user))

    @hub.on_disconnect
    def went(subscription: Subscription, reason: str) -> None:
        log.append(("went", subscription.user, subscription.topics, subscription.closed, reason))

    @hub.on_disconnect
    async def went_later(subscription: Subscription, reason: str) -> None:
        await asyncio.sleep(0)
        log.append(("went later", subscription.info, reason))

    async with connect(hub.endpoint("t", user="ann", info=7), "/") as client:
        assert (await client.next()).json() == "hello"
        await until_async(lambda: len(log) == 2)
        assert log == [("came", "ann", ("t",), None), ("came later", "ann")]
    await until_async(lambda: len(log) == 4)
    assert log[2:] == [("went", "ann", ("t",), "client", "client"), ("went later", 7, "client")]


async def test_every_reason_is_reported() -> None:
    hub = Hub()
    reasons: list[str] = []
    hub.on_disconnect(lambda subscription, reason: reasons.append(reason))

    async def expect(reason: str) -> None:
        await until_async(lambda: reasons)
        assert reasons == [reason]
        assert hub.count() == 0
        reasons.clear()

    async with connect(hub.endpoint("t"), "/"):
        pass
    await expect("client")
    hub.subscribe("t").close()
    await expect("closed")
    hub.subscribe("t")
    await expect("closed")
    stream = hub.subscribe("t")
    stream.close(reason="too loud")
    await expect("too loud")
    stream = hub.subscribe("t", user="ann")
    hub.disconnect(user="ann")
    await expect("kicked")
    stream = hub.subscribe("t", user="ann")
    hub.disconnect(user="ann", reason="logged out")
    await expect("logged out")
    assert stream.closed == "logged out"
    stream = hub.subscribe("t", max_age=0.01)
    await expect("max_age")
    stream = hub.subscribe("t")
    stream._end(EndKind.SHUTDOWN)
    await expect("shutdown")
    stream = hub.subscribe("t")
    await hub.aclose(grace=0)
    await until_async(lambda: reasons)
    assert reasons == ["hub_closed"]


async def test_a_callback_that_fails_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(name="news")
    done: list[str] = []

    @hub.on_connect
    def broken(subscription: Subscription) -> None:
        raise LookupError("in a def")

    @hub.on_connect
    async def broken_later(subscription: Subscription) -> None:
        raise LookupError("in an async def")

    hub.on_connect(lambda subscription: done.append("came"))

    @hub.on_disconnect
    async def gone(subscription: Subscription, reason: str) -> None:
        done.append("went")
        raise LookupError("at the end")

    with caplog.at_level(logging.ERROR, "sse_hub"):
        async with connect(hub.endpoint("t"), "/") as client:
            hub.publish("t", 1)
            assert (await client.next()).data == "1"
        await until_async(lambda: len(caplog.records) == 3)
    assert done == ["came", "went"]
    assert all("hub 'news'" in record.getMessage() and record.exc_info for record in caplog.records)
    assert sorted(str(record.exc_info[1]) for record in caplog.records if record.exc_info) == [
        "at the end",
        "in a def",
        "in an async def",
    ]


async def test_callbacks_run_on_the_subscribers_loop() -> None:
    hub = Hub()
    where: list[int] = []
    hub.on_connect(lambda subscription: where.append(threading.get_ident()))
    hub.on_disconnect(lambda subscription, reason: where.append(threading.get_ident()))
    stream = hub.subscribe("t")
    await until_async(lambda: len(where) == 1)
    await asyncio.to_thread(stream.close)
    await until_async(lambda: len(where) == 2)
    stream = hub.subscribe("t")
    await asyncio.to_thread(hub.disconnect, id=stream.id)
    await until_async(lambda: len(where) == 4)
    assert set(where) == {threading.get_ident()}


async def test_a_full_hub_sends_newcomers_away_for_a_while() -> None:
    hub = Hub(max_subscribers=2)
    async with connect(hub.endpoint("t"), "/") as first, connect(hub.endpoint("t"), "/"):
        async with connect(hub.endpoint("t"), "/", control=True, comments=True) as third:
            assert third.status_code == 200, "any other status stops a browser for good"
            assert third.headers["content-type"].startswith("text/event-stream")
            assert await third.rest() == []
            assert third.retry == 30_000
        with pytest.raises(HubFull, match="max_subscribers=2"):
            hub.subscribe("t")
        stats = hub.stats()
        assert (stats["subscribers"], stats["turned_away"], stats["connected"]) == (2, 2, 2)
        await first.close()
        async with connect(hub.endpoint("t"), "/", control=True) as again:
            assert (await again.next()).event == "stream-open"


@pytest.mark.parametrize("handoff", [False, None])
def test_a_full_hub_refuses_newcomers_by_status_if_asked(handoff: bool | None) -> None:
    hub = Hub(max_subscribers=1, full_status=503, handoff=handoff)

    async def events(request: Any) -> HubResponse:
        return hub.response("t", headers={"X-Mine": "kept"})

    app = Starlette(routes=[Route("/", events)])
    with serve(app) as server:
        with server.stream("/") as stream:
            stream.opened()
            refused = server.http.get("/")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
            assert refused.headers["cache-control"] == "no-store"
            assert (refused.headers["x-mine"], refused.content) == ("kept", b"")
            assert hub.stats()["turned_away"] == 1
            hub.publish("t", "still here")
            assert stream.next().json() == "still here"
        hub.close()
    with pytest.raises(ValueError, match="full_status must be 200 or 503, not 429"):
        Hub(full_status=429)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "environment", "warned"),
    [(2, None, ["2 workers"]), (1, "4", []), (None, "4", ["4 workers"]), (None, None, [])],
)
def test_the_log_warns_once_of_workers_that_a_hub_does_not_reach(
    workers: int | None,
    environment: str | None,
    warned: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if environment is not None:
        monkeypatch.setenv("WEB_CONCURRENCY", environment)
    hub = Hub(name="prices")

    async def events(request: Any) -> HubResponse:
        return hub.response("t")

    async def plain(request: Any) -> EventSourceResponse:
        return EventSourceResponse(hub.subscribe("t"))

    with serve(Starlette(routes=[Route("/", events), Route("/plain", plain)]), workers=workers) as server:
        for path in ("/plain", "/", "/"):
            with server.stream(path) as stream:
                stream.opened()
    messages = [record.message for record in caplog.records if "'prices'" in record.message]
    assert len(messages) == len(warned)
    for message, number in zip(messages, warned, strict=True):
        assert number in message
        assert "reaches only its own clients" in message
        # What needs no server comes first.
        assert 'run one worker, or give it a broker: Hub("file:events"), or Hub("redis://…")' in message


async def test_a_server_that_does_not_tell_is_asked_through_the_environment(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    async with connect(Hub().endpoint("t"), "/"):
        assert "3 workers" in caplog.text


async def test_counts_and_stats() -> None:
    hub = Hub()
    assert set(hub.stats()) >= {
        *(
            "epoch",
            "cursor",
            "published",
            "delivered",
            "dropped",
            "superseded",
            "overflowed",
            "stalled",
            "resets",
            "resumed",
        ),
        *("heartbeats", "connected", "disconnected", "undeliverable", "refused", "turned_away"),
        *("subscribers", "topics", "history_events", "history_bytes", "backlog_bytes", "readers"),
    }
    async with connect(hub.endpoint(["a", "b"]), "/") as client:
        hub.publish("a", 1)
        hub.publish("c", 2)
        hub.broadcast(3)
        await client.take(2)
        stats = hub.stats()
        assert (stats["cursor"], stats["published"], stats["history_events"], stats["topics"]) == (3, 3, 3, 3)
        assert stats["delivered"] == 3  # stream-open, too
        assert stats["backlog_bytes"] == 0
        assert 3 * 20 < stats["history_bytes"] < 3 * 400
        assert repr(hub) == "<Hub 'default', 1 subscribers>"
    assert hub.count() == 0
    assert hub.stats()["disconnected"] == 1


async def test_closing_delivers_what_was_published_and_the_next_use_starts_anew() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        last = await hub.publish("t", 1)
        epoch = hub.stats()["epoch"]
        await hub.aclose()
        assert [event.data for event in await client.rest()] == ["1"]
        assert hub.stats()["epoch"] != epoch
        assert hub.stats()["published"] == hub.count() == 0
        await client.reconnect()
        hub.publish("t", 2)
        assert (await client.next()).data == "2"
        assert client.last_event_id != last
    await hub.aclose()
    await hub.aclose()
    hub.close()


async def test_closing_waits_for_streams_no_longer_than_its_grace() -> None:
    hub = Hub(grace=PATIENCE)
    async with connect(hub.endpoint("t"), "/") as client:
        client.pause()
        hub.publish("t", 1)
        began = time.monotonic()
        await hub.aclose(grace=0.2)
        assert 0.15 < time.monotonic() - began < PATIENCE / 2
        client.resume()
        assert [event.data for event in await client.rest()] == ["1"]


async def test_a_close_that_is_cancelled_closes_at_once() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/"):
        kept = hub.subscribe("t")  # it has no reader, so closing would wait for it
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hub.aclose(grace=60), 0.05)
        assert kept.closed == "hub_closed"
        assert await hub.publish("t", 1)


async def test_closes_that_overlap_do_not_end_the_next_life() -> None:
    hub = Hub()
    old = hub.subscribe("t")
    quick = asyncio.create_task(hub.aclose(grace=0.05))
    slow = asyncio.create_task(hub.aclose(grace=0.3))
    await quick
    async with connect(hub.endpoint("t"), "/") as client:
        await slow
        hub.publish("t", 1)
        assert (await client.next()).data == "1"
        await client.silent()
    assert old.closed == "hub_closed"


def test_sync_code_closes_a_hub_of_a_loop_in_another_thread() -> None:
    hub = Hub()
    opened = threading.Event()
    got: list[Any] = []

    async def consume() -> None:
        async with connect(hub.endpoint("t"), "/") as client:
            opened.set()
            got.extend(event.data for event in await client.rest(PATIENCE))

    thread = threading.Thread(target=lambda: asyncio.run(consume()))
    thread.start()
    assert opened.wait(PATIENCE)
    hub.publish("t", 1)
    began = time.monotonic()
    hub.close(grace=PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2, "nobody has anything left to take"
    thread.join(PATIENCE)
    assert got == ["1"]


async def test_a_loops_own_thread_can_close_it_too() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", 1)
        hub.close()
        assert [event.data for event in await client.rest()] == ["1"]


async def test_a_hub_is_a_context_manager() -> None:
    async with Hub() as hub:
        stream = hub.subscribe("t")
        consumed = asyncio.create_task(_drain(stream))
    async with asyncio.timeout(PATIENCE):
        await consumed
    assert stream.closed == "hub_closed"
    with Hub() as hub:
        stream = hub.subscribe("t")
    assert stream.closed is None or stream.closed == "hub_closed"
    async with asyncio.timeout(PATIENCE):
        await _drain(stream)
    assert stream.closed == "hub_closed"


async def _drain(stream: Subscription) -> None:
    async for _ in stream:
        pass


def test_a_module_level_hub_serves_two_applications_in_a_row() -> None:
    hub = Hub()

    @asynccontextmanager
    async def around(app: Starlette) -> Any:
        yield
        await hub.aclose()

    async def live(n: int) -> str:
        app = Starlette(routes=[Route("/", hub.endpoint("t", replay="all"))], lifespan=around)
        async with lifespan(app), connect(app, "/") as client:
            hub.publish("t", n)
            assert (await client.next()).json() == n, "and nothing of the life before"
            return client.last_event_id

    first, second = asyncio.run(live(1)), asyncio.run(live(2))
    assert first.partition("-")[0] != second.partition("-")[0]
    assert hub.stats()["readers"] == 0


def test_without_a_close_a_hub_goes_on_to_the_next_loop_with_its_history() -> None:
    hub = Hub()

    async def live(n: int, last: str | None) -> str:
        async with connect(hub.endpoint("t"), "/", last_event_id=last) as client:
            hub.publish("t", n)
            assert (await client.next()).json() == n
            return client.last_event_id

    last = None
    for n in range(3):
        last = asyncio.run(live(n, last))
    assert hub.count() == 0
