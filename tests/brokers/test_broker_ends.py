"""Topics that end over a broker: the stream's order decides, and every process follows."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack

import pytest
from redis_workers import Pair, listening
from sse_hub import Hub, TopicEnded
from sse_hub.testing import connect
from stores import Store
from waiting import PATIENCE, until, until_async
from wire import names


def test_the_streams_of_every_worker_end(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with Hub(store.url, name=pair.name) as hub, listening(a.listen(), b.listen()) as clients:
        hub.publish("t", 1)
        end = hub.end("t").result(PATIENCE)
        for client in clients:
            assert client.event().json() == 1
            assert names(client.rest()) == ["stream-end"]
            assert client.ended
            assert client.last_event_id == end
        with pytest.raises(TopicEnded, match='"t" has ended'):
            hub.publish("t", 2).result(PATIENCE)
        with a.listen(last_event_id=clients[0].last_event_id) as back, pytest.raises(AssertionError):
            back.next()
        assert b"HTTP/1.1 204" in back.received + back.head
        with b.listen(replay="all") as late:
            assert names(late.rest()) == ["1", "stream-end"]


def test_a_client_that_is_cut_before_the_end_comes_back_for_it(store: Store, pair: Pair) -> None:
    """Also one that has received only the opening, or an id from behind the end."""
    with Hub(store.url, name=pair.name) as hub:
        end = hub.end("t").result(PATIENCE)
        later = hub.publish("other", 1).result(PATIENCE) or ""
        for worker in pair.hubs(store.url):
            for came in (later, ""):
                with worker.listen(last_event_id=came) as client:
                    cut = client.opened().id
                with worker.listen(last_event_id=cut) as back:
                    assert names(back.rest()) == ["stream-end"]
                    assert back.last_event_id == end


async def test_a_process_that_starts_later_knows_what_has_ended(store: Store) -> None:
    async with Hub(store.url) as hub:
        await hub.publish("t", 1)
        end = await hub.end("t", keep=60)
        async with Hub(store.url) as later:
            with pytest.raises(TopicEnded):
                await later.publish("t", 2)
            await until_async(lambda: later._ending("t") == "ended")
            async with connect(later.endpoint("t", replay="all"), "/", control=True) as client:
                assert names([event async for event in client])[1:] == ["1", "stream-end"]
                assert client.last_event_id == end


async def test_a_topic_whose_end_is_trimmed_has_ended_for_a_process_that_starts_later(store: Store) -> None:
    async with Hub(store.url) as first:
        await first.publish("t", 1)
        await first.end("t")
        await first.publish("other", 1)
        store.trim(keep=1)
        async with Hub(store.url) as later:
            last = None
            for _ in range(2):  # it was open when the first one came, which has a later id
                async with connect(later.response("t"), "/", last_event_id=last, control=True) as client:
                    async with asyncio.timeout(PATIENCE):
                        events = [event.event async for event in client if not event.is_comment]
                    last = client.last_event_id
                assert events == ["stream-open", "stream-end"]
            async with connect(later.response("t"), "/", last_event_id=last) as client:
                assert client.status_code == 204
            async with connect(later.response("open"), "/") as client:
                (there,) = later.subscribers("open")
                await later.publish("open", 1)
                assert (await client.next()).json() == 1, "one that has not ended goes on"
                assert there.closed is None


def test_the_streams_of_a_worker_that_missed_the_end_in_a_gap_end(store: Store, pair: Pair) -> None:
    _, b = pair.hubs(store.url)
    with Hub(store.url, name=pair.name) as hub, listening(b.listen(), b.listen("u")) as (client, other):
        process = pair.workers[1].process.process.pid
        store.suspend(process, pair.name)
        try:
            hub.publish("u", 1).result(PATIENCE)  # this, its socket or its open file may have already
            store.trim(pair.name, keep=1)
            end = hub.end("t").result(PATIENCE)
            hub.publish("u", 2).result(PATIENCE)
            store.trim(pair.name, keep=1)
        finally:
            os.kill(process, signal.SIGCONT)
        client.until_reset()
        assert names(client.rest()) == ["stream-end"]
        assert client.last_event_id == end
        other.until(2)  # a topic that has not ended goes on


async def test_ends_that_race_with_publications_are_decided_by_the_stream(store: Store) -> None:
    async with Hub(store.url) as a, Hub(store.url) as b:
        await asyncio.gather(a.publish("warm", 1), b.publish("warm", 1))
        for race in range(30):
            topic = f"race {race}"
            before = [a.publish(topic, n) for n in range(20)]
            end = b.end(topic)
            after = [a.publish(topic, n) for n in range(20, 40)]
            outcomes = await asyncio.gather(*before, *after, return_exceptions=True)
            await end
            assert all(isinstance(one, str | TopicEnded) for one in outcomes)
            expected = [str(n) for n, one in enumerate(outcomes) if isinstance(one, str)]
            for hub in (a, b):
                await until_async(lambda hub=hub, topic=topic: hub._ending(topic) is not None)
                async with connect(hub.endpoint(topic, replay="all"), "/", control=True) as client:
                    got = names([event async for event in client])
                assert got == ["stream-open", *expected, "stream-end"]


def test_a_name_is_free_for_every_process(store: Store) -> None:
    with ExitStack() as stack:
        hubs = [stack.enter_context(Hub(store.url)) for _ in range(2)]
        for round in range(3):
            hubs[round % 2].end("t", keep=0).result(PATIENCE)
            hubs[1].publish("t", round).result(PATIENCE)
        until(lambda: all(hub._ending("t") is None for hub in hubs))
