"""What the hub promises, through real sockets and on both paths: through the server, and handed off."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from sse_hub import EndReason, EventSourceResponse, ServerSentEvent, Subscription
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import promised, until
from wire import WAYS, Site, names, only

SITES = tuple(WAYS)


# --- Topics and addresses --------------------------------------------------------------------------


def test_the_head_and_the_opening(site: Site) -> None:
    hub = site.hub(reconnect=(2.0, 3.0))
    newest = hub.publish("t", 1).id
    site.app = hub.endpoint("t", headers={"X-Own": "yes"})
    with site.raw() as stream:
        opening = stream.opened()
        assert (opening.data, opening.id) == ("", newest)
        assert opening.retry is not None
        assert 2000 <= opening.retry <= 3000
        head = stream.head.lower()
        assert b"content-type: text/event-stream" in head
        assert b"cache-control: no-store" in head
        assert b"x-accel-buffering: no" in head
        assert b"x-own: yes" in head
        assert b"transfer-encoding: chunked" in head
        # Not even where the connection closes: Node's fetch() then takes a body that breaks off for complete.
        assert b"\r\nconnection:" not in head


def test_each_gets_its_topics_once_in_one_order(site: Site) -> None:
    hub = site.hub()
    wanted = {"a": [0, 2, 3], "b": [1, 2, 3], "c": [3]}
    streams = {topic: site.stream(hub, topic) for topic in wanted}
    both = site.stream(hub, ["a", "b"])
    for n, topics in enumerate(["a", "b", ["a", "b"], ["a", "b", "c"]]):
        hub.publish(topics, n)
    hub.publish("nobody", "x")
    for topic, numbers in wanted.items():
        assert streams[topic].take(len(numbers)) == numbers
    assert both.take(4) == [0, 1, 2, 3]
    for stream in [both, *streams.values()]:
        stream.close()


def test_broadcast_reaches_everybody(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub, "a") as one, site.stream(hub, ()) as other:
        id = hub.broadcast({"to": "all"}, event="news").id
        for stream in (one, other):
            event = stream.event()
            assert (event.event, event.json(), event.id) == ("news", {"to": "all"}, id)


def test_every_field_of_an_event(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub) as stream:
        hub.publish("t", raw_data="two\nlines ☕", event="named", retry=1500, comment="why")
        while (comment := stream.next()).data != "why":
            pass
        assert comment.is_comment
        event = stream.next()
        assert (event.event, event.data, event.retry) == ("named", "two\nlines ☕", 1500)


def test_send_reaches_one_without_an_id_and_in_order(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub) as one, site.stream(hub) as other:
        first, _ = sorted(hub.subscribers(), key=lambda subscriber: subscriber.id)
        hub.publish("t", 1)
        assert hub.send(first.id, "only you").result() is None
        hub.publish("t", 2)
        streams = {tuple(stream.take(2)): stream for stream in (one, other)}
        chosen, not_chosen = streams[1, "only you"], streams[1, 2]
        assert chosen.take(1) == [2]
        seen = chosen.last_event_id
        not_chosen.silent()
    with site.stream(hub, client={"last_event_id": seen}) as back:
        back.silent()


@pytest.mark.parametrize("reason", ["client", "overflow", "stalled", "closed", "shutdown"])
def test_a_kick_may_have_a_reason_that_the_hub_has_too(site: Site, reason: str) -> None:
    hub = site.hub()
    reasons: list[EndReason] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))

    async def events(request: Request) -> Response:
        # With an option of sse-starlette: on no path of this server it is handed off.
        return EventSourceResponse(hub.subscribe("t"), ping=60)

    for app in (hub.endpoint("t"), Starlette(routes=[Route("/", events)])):
        site.app = app
        with site.raw() as stream:
            stream.opened()
            hub.publish("t", 1)
            assert hub.disconnect(id=only(hub).id, reason=reason) == 1
            assert [event.data for event in stream.rest() if not event.is_comment] == ["1"]
            assert stream.ended, "not cut off"
        until(lambda: hub.count() == 0)
    until(lambda: reasons == [reason, reason])
    assert [given.kind for given in reasons] == ["kicked", "kicked"]


@pytest.mark.parametrize("reason", [None, "client", "stalled", "enough"])
def test_what_was_published_or_sent_before_a_close_arrives(site: Site, reason: str | None) -> None:
    hub = site.hub()
    for _ in range(5):
        with site.stream(hub) as stream:
            subscriber = only(hub)
            hub.publish("t", 1)
            subscriber.send(2)
            subscriber.close(reason=reason)
            hub.publish("t", 3)
            assert names(stream.rest()) == ["1", "2"]
            assert stream.ended
            assert subscriber.closed == (reason or "closed")
            assert subscriber.closed.kind == "closed"
        until(lambda: hub.count() == 0)


def test_a_close_without_a_drain_drops_what_is_queued(site: Site) -> None:
    hub = site.hub(capacity=1000, capacity_bytes=100 << 20)
    with site.stream(hub) as stream:
        subscriber = only(hub)
        # More than the kernel takes from a stream that nobody reads.
        for n in range(300):
            hub.publish("t", raw_data=f"{n}" + "x" * 60_000)
        subscriber.close(drain=False, reason="at once")
        assert len(stream.rest()) < 300
    assert subscriber.closed == "at once"


def test_a_kick_by_id_or_user_ends_the_body(site: Site) -> None:
    hub = site.hub()
    reasons: list[tuple[str | None, str]] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append((subscriber.user, reason)))
    with (
        site.stream(hub, user="ann") as ann,
        site.stream(hub, user="bob") as bob,
        site.stream(hub, user="bob") as bob_too,
        site.stream(hub, user="cat") as cat,
    ):
        hub.publish("t", 1)
        (id,) = [subscriber.id for subscriber in hub.subscribers() if subscriber.user == "ann"]
        assert hub.disconnect(id=id, reason="enough") == 1
        assert hub.disconnect(user="bob") == 2
        for stream in (ann, bob, bob_too):
            assert names(stream.rest()) == ["1"], "what was queued still goes out"
            assert stream.ended
        hub.publish("t", 2)
        assert cat.take(2) == [1, 2]
        assert hub.count() == 1
        until(lambda: len(reasons) == 3)
        assert sorted(reasons, key=str)[0] == ("ann", "enough")
        assert hub.disconnect(id=id) == 0


def test_join_and_leave_while_it_streams(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub, "a") as stream:
        subscriber = only(hub)
        hub.publish("b", "before")
        assert subscriber.join(["b", "c"])
        assert subscriber.topics == ("a", "b", "c")
        hub.publish("b", 1)
        hub.publish("a", 2)
        assert subscriber.leave("a")
        hub.publish("a", "after")
        hub.publish("c", 3)
        assert stream.take(3) == [1, 2, 3]
        assert (hub.count("a"), hub.count("b")) == (0, 1)
        subscriber.close()
        assert stream.rest() == []
        assert stream.ended
        assert not subscriber.join("d")


# --- Initial, replay, reset ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["def", "async", "generator", "async generator", "one", "nothing"])
def test_initial_comes_first(site: Site, kind: str) -> None:
    hub = site.hub()
    rows = [ServerSentEvent("row", event="snapshot"), {"row": 2}]

    async def later(subscriber: Subscription) -> list[Any]:
        hub.publish("t", "meanwhile")
        await asyncio.sleep(0.05)
        return rows

    async def each(subscriber: Subscription) -> AsyncIterator[Any]:
        hub.publish("t", "meanwhile")
        for row in rows:
            yield row

    def given(subscriber: Subscription) -> Any:
        hub.publish("t", "meanwhile")
        values = {"def": rows, "generator": (row for row in rows), "one": rows[0], "nothing": None}
        return values[kind]

    initial = {"async": later, "async generator": each}.get(kind, given)
    with site.stream(hub, initial=initial) as stream:
        wanted = {"one": [rows[0]], "nothing": []}.get(kind, rows)
        for row in wanted:
            event = stream.event()
            if row is rows[0]:
                assert (event.event, event.data) == ("snapshot", "row")
            else:
                assert event.json() == row
            before = event.id
        event = stream.event()
        assert event.json() == "meanwhile"
        if wanted:
            assert before == f"{hub.stats()['epoch']}-0", "the last one has the cursor's id"
        seen = event.id
    hub.publish("t", "missed")
    with site.stream(hub, initial=initial, client={"last_event_id": seen}) as stream:
        assert stream.take(1) == ["missed"], "who resumes completely needs none"


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_client_that_comes_back_gets_exactly_what_it_missed(site: Site, how: str) -> None:
    hub = site.hub(history=3000)
    with site.stream(hub) as stream:
        hub.publish("t", 0)
        assert stream.take(1) == [0]
        assert only(hub).recovered is None
    until(lambda: hub.count() == 0)
    for n in range(1, 2000):
        hub.publish(["t", "other"] if n % 2 else "t", n)
        hub.publish("other", "not mine")
    seen = stream.last_event_id
    client = {"last_event_id": seen} if how == "header" else {"path": f"/?lastEventId={seen}"}
    with site.stream(hub, client=client) as back:
        assert only(hub).recovered is True
        hub.publish("t", 2000)
        assert back.take(2000) == [*range(1, 2001)]
        back.silent()
    assert hub.stats()["resumed"] == 1


@pytest.mark.parametrize("reason", ["unknown", "epoch", "ahead", "evicted"])
def test_a_gap_is_announced(site: Site, reason: str) -> None:
    hub = site.hub(history=3)
    old = hub.publish("t", 0).id
    if reason == "epoch":
        hub.close()
    for n in range(5):
        hub.publish("t", n)
    epoch = hub.stats()["epoch"]
    given = {"unknown": "café ☕", "epoch": old, "ahead": f"{epoch}-99", "evicted": old}[reason] or ""
    with site.stream(hub, client={"last_event_id": given}) as stream:
        told = stream.next()
        assert (told.event, told.json()) == ("stream-reset", {"reason": reason, "requested": given})
        assert only(hub).recovered is False
        if reason == "evicted":
            assert stream.take(3) == [2, 3, 4], "what is left still comes"
        hub.publish("t", "live")
        assert stream.take(1) == ["live"]


def test_a_newcomers_replay(site: Site) -> None:
    hub = site.hub()
    for n in range(10):
        hub.publish("ab"[n % 2], n)
    for replay, wanted in [(0, []), (2, [6, 7, 8, 9]), ("all", [*range(10)])]:
        with site.stream(hub, ["a", "b"], replay=replay) as stream:
            id = hub.send(hub.subscribers()[-1].id, "live")
            assert id.done()
            assert stream.take(len(wanted) + 1) == [*wanted, "live"]
        until(lambda: hub.count() == 0)


def test_nothing_is_lost_or_doubled_between_replay_and_live(site: Site) -> None:
    hub = site.hub(history=10_000_000, history_bytes=2**32, history_total_bytes=2**32)
    stop = threading.Event()

    def publish() -> None:
        for n in itertools.count():
            hub.publish("t", n)
            if n % 20 == 0 and stop.wait(0.001):
                break

    site.app = hub.endpoint("t")
    stream = site.raw()
    stream.opened()
    thread = threading.Thread(target=publish)
    thread.start()
    got: list[int] = []
    try:
        for _ in range(20):
            got += stream.take(40)
            stream.close()
            stream = site.raw(last_event_id=stream.last_event_id)
    finally:
        stop.set()
        thread.join()
        stream.close()
    assert got == [*range(800)]


# --- Time ------------------------------------------------------------------------------------------


def test_silence_is_filled_with_heartbeats(site: Site) -> None:
    hub = site.hub(heartbeat=0.2)
    began = time.monotonic()
    with site.stream(hub, "quiet") as stream:
        assert stream.next().is_comment
        assert stream.next().is_comment
        assert 0.25 < time.monotonic() - began < promised(2)
        newest = hub.publish("busy", 1).id
        cursor = stream.next()
        while cursor.is_comment:  # one that was on its way
            cursor = stream.next()
        assert (cursor.event, cursor.data, cursor.id) == ("stream-cursor", "", newest)
        assert stream.next().is_comment


def test_a_busy_stream_has_none(site: Site) -> None:
    hub = site.hub(heartbeat=0.4)
    pauses = [time.monotonic()]
    with site.stream(hub) as stream:
        for _ in range(50):
            hub.publish("t", 1)
            while stream.next().is_comment:
                pass
            time.sleep(0.02)
            pauses.append(time.monotonic())
        # A heartbeat is due after 0.3 seconds; only a machine that stands still makes a pause of it.
        long = [later - earlier for earlier, later in pairwise(pauses) if later - earlier > 0.15]
        assert hub.stats()["heartbeats"] <= 2 * sum(long) / 0.3


def test_max_age_ends_the_body(site: Site) -> None:
    hub = site.hub()
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    began = time.monotonic()
    hub.publish("t", 1)
    with site.stream(hub, max_age=0.3, replay=1) as stream:
        assert names(stream.rest()) == ["1"]
        assert stream.ended
        assert 0.25 < time.monotonic() - began < promised(3)
    until(lambda: reasons == ["max_age"])
