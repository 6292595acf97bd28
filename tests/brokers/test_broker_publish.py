"""Publishing through a broker: one hub over several processes, one order, and what a Publication reports."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import ExitStack, nullcontext, suppress
from typing import Any

import httpx
import pytest
from programs import run_program
from redis_server import entry_id
from redis_workers import Pair, app_command, listening, takes
from servers import run, stopped
from sse_hub import (
    EventTooLarge,
    Hub,
    HubFull,
    InvalidEvent,
    ServerSentEvent,
    TopicEnded,
)
from stores import Store
from waiting import PATIENCE, until
from wire import Site, Stream


def test_an_event_reaches_the_clients_of_every_worker(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with listening(a.listen(), b.listen()) as clients:
        ids = a.publish("from a") + b.publish("from b") + a.publish("from a again")
        for client in clients:
            events = [client.event() for _ in ids]
            assert [event.json() for event in events] == ["from a", "from b", "from a again"]
            assert [event.id for event in events] == ids
        assert [client.seen()["path"] for client in clients] == ["loop", "reactor"]
    assert store.ids(pair.name) == ids


def test_topics_and_broadcasts_are_the_same_over_processes(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with (
        Hub(store.url, name=pair.name) as hub,
        listening(a.listen("x"), b.listen("x,y"), b.listen("y"), a.listen("")) as (x, xy, y, none),
    ):
        hub.publish("x", "to x")
        hub.publish(["x", "y"], "to both")
        hub.publish("z", "to nobody")
        hub.broadcast("to all")
        takes([x], ["to x", "to both", "to all"])
        takes([xy], ["to x", "to both", "to all"])
        takes([y], ["to both", "to all"])
        takes([none], ["to all"])


def test_every_client_sees_the_order_of_the_stream(store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with (
        Hub(store.url, name=pair.name) as hub,
        listening(*(worker.listen() for worker in (a, b) for _ in range(3))) as clients,
    ):

        def publish(who: str, publish: Any) -> None:
            for n in range(20):
                publish(*(f"{who}{n}-{part}" for part in range(10)))

        publishers = {
            "a": a.publish,
            "b": b.publish,
            "here": lambda *data: [hub.publish("t", one) for one in data],
        }
        threads = [threading.Thread(target=publish, args=at) for at in publishers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        hub.publish("t", "end").result()
        stream = store.ids(pair.name)
        assert len(stream) == 3 * 200 + 1
        orders = []
        for client in clients:
            events = [client.event() for _ in stream]
            assert [event.id for event in events] == stream
            orders.append([event.json() for event in events])
        assert all(order == orders[0] for order in orders)
        for who in publishers:  # and each publisher's own order holds
            mine = [data for data in orders[0] if data.startswith(who)]
            assert mine == [f"{who}{n}-{part}" for n in range(20) for part in range(10)]


def test_workers_of_one_server_are_one_hub(store: Store) -> None:
    """``uvicorn --workers 2``, with a hub as every app has it."""
    # The supervisor ends a worker that does not answer it for five seconds, by default.
    patient = ("--timeout-worker-healthcheck", str(int(PATIENCE)))
    command = app_command("--workers", "2", *patient, processes=2, SSE_HUB_URL=store.url)
    with run(command) as server, ExitStack() as stack:

        def publish(data: Any) -> int:
            """Publish through whichever worker accepts; its process."""
            url = f"http://127.0.0.1:{server.port}/default/publish"
            (published,) = httpx.post(url, json=[data], timeout=PATIENCE, trust_env=False).json()
            pid: int = published["pid"]
            return pid

        def listen() -> list[Stream]:
            streams = [stack.enter_context(Stream(server.port, "/default/events")) for _ in range(3)]
            for stream in streams:
                stream.opened()
            return streams

        one = publish("before")
        with stopped(one):  # only the other worker accepts
            clients = listen()
            other = publish(1)
        with stopped(other):
            clients += listen()
            assert publish(2) == one != other
        publish("end")
        published = ["before", 1, 2, "end"]
        for number, client in enumerate(clients):
            seen = client.take(1)
            while seen[-1] != "end":
                seen += client.take(1)
            # A worker that stood still lets newcomers in where it is, which is behind.
            assert seen == published[-len(seen) :]
            assert len(seen) >= (3 if number < 3 else 2)
        assert "no broker" not in server.output


def test_a_publication_gives_the_streams_id(store: Store) -> None:
    with Hub(store.url) as hub:
        published = hub.publish("t", 1)
        id = published.result(PATIENCE)
        assert published.done()
        assert published.id == id
        assert published.result() == id
        assert store.ids() == [id]
        next_id = hub.publish("t", 2).result()
        assert id is not None
        assert next_id is not None
        assert entry_id(next_id) > entry_id(id)
        sent = hub.send("nobody", 1)
        assert sent.result(PATIENCE) is None
        assert sent.id is None
        assert sent.done()


@pytest.mark.parametrize("streams", [False, True], ids=["alone", "beside-a-stream"])
async def test_a_publication_may_be_awaited_more_than_once_and_by_many(store: Store, streams: bool) -> None:
    async with Hub(store.url) as hub, hub.subscribe("other") if streams else nullcontext():
        published = hub.publish("t", 1)

        async def wait() -> str | None:
            return await published

        ids = await asyncio.gather(*(wait() for _ in range(5)))
        assert {*ids} == {published.id} == {*store.ids()}
        assert await published == published.id
        many = [hub.publish("t", n) for n in range(500)]
        assert [await one for one in many] == store.ids()[1:]


@pytest.mark.parametrize("streams", [False, True], ids=["alone", "beside-a-stream"])
async def test_a_cancelled_wait_takes_nothing_back(store: Store, streams: bool) -> None:
    async with Hub(store.url) as hub, hub.subscribe("other") if streams else nullcontext():
        await hub.publish("t", "first")
        store.pause()
        published = hub.publish("t", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_for(published), 0.05)
        assert not published.done()
        store.resume()
        assert await published == store.ids()[1]


async def test_a_task_learns_the_outcome_also_when_its_hub_is_closed_before(store: Store) -> None:
    async with Hub(store.url) as hub:
        async with hub.subscribe("other"):
            await hub.publish("t", "first")
            store.pause()
            task = asyncio.create_task(wait_for(hub.publish("t", 1)))
            await asyncio.sleep(0)
        closing = asyncio.create_task(hub.aclose())
        await asyncio.sleep(0)
        closing.cancel()  # it then waits for nothing
        with pytest.raises(asyncio.CancelledError):
            await closing
        # The loop has let go of the hub.
        await asyncio.sleep(0)
        store.resume()
        assert await asyncio.wait_for(task, PATIENCE) == store.ids()[1]


async def test_a_task_beside_a_stream_learns_of_a_failure(store: Store) -> None:
    async with Hub(store.url) as hub, hub.subscribe("other"):
        await hub.end("t")
        with pytest.raises(TopicEnded):
            await hub.publish("t", "late")


def test_a_loop_with_streams_needs_no_other_thread_to_learn_of_outcomes(store: Store) -> None:
    program = f"""
        import asyncio
        from pathlib import Path
        from sse_hub import Hub

        def threads():
            return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

        async def main():
            async with Hub({store.url!r}) as hub, hub.subscribe("t"):
                for n in range(3):
                    assert await hub.publish("t", n)
                assert "sse-hub-await" not in threads(), threads()

        asyncio.run(main())
        """
    run_program(program)


async def wait_for(published: Any) -> str | None:
    id: str | None = await published
    return id


def test_a_result_that_takes_too_long_is_a_timeout_and_comes_later(store: Store) -> None:
    with Hub(store.url) as hub:
        hub.publish("t", "first").result()
        store.pause()
        published = hub.publish("t", 1)
        assert published.id is None
        assert not published.done()
        with pytest.raises(TimeoutError):
            published.result(0.05)
        store.resume()
        assert published.result(PATIENCE) == store.ids()[1]
        assert published.done()


def test_a_full_queue_is_said_at_once_and_what_was_taken_is_sent(store: Store) -> None:
    with Hub(store.broker(timeout=PATIENCE), backlog_bytes=100_000) as hub:
        hub.publish("t", raw_data="first").result()
        store.pause()
        taken: list[Any] = []

        def fill() -> None:
            for n in range(2000):  # the connection itself takes some megabytes
                taken.append(hub.publish("t", raw_data=f"{n:05}" + "x" * 10_000))

        with pytest.raises(HubFull):
            fill()
        assert not taken[-1].done(), "publish() waited until Redis went on, or gave up"
        store.resume()
        ids = [one.result(PATIENCE) for one in taken]
        assert store.ids()[1:] == ids[-len(store.ids()) + 1 :]
        hub.publish("t", raw_data="last").result(PATIENCE)


def test_what_is_wrong_with_an_event_is_said_at_the_call(store: Store) -> None:
    with Hub(store.url, max_event_bytes=1000) as hub:
        with pytest.raises(InvalidEvent):
            hub.publish("t", 1, event="two\nlines")
        with pytest.raises(InvalidEvent):
            hub.publish("t", float("nan"))
        with pytest.raises(EventTooLarge):
            hub.publish("t", "x" * 1000)
        with pytest.raises(ValueError, match="topic"):
            hub.publish("two\nlines", 1)
        with pytest.raises(TypeError):
            hub.publish("t", object())
        hub.publish("t", "fine").result(PATIENCE)
    assert len(store.ids()) == 1


def test_the_streams_retention_is_the_hubs_and_a_topics_rule_that_asks_for_more_is_warned_of(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with Hub(store.url, history=100, history_age=60) as hub:
        hub.topic("chat:*", history=10, history_age=30)
        hub.topic("other", history_bytes=1 << 30)
        assert caplog.text == ""
        hub.topic("audit", history=1000)
        hub.topic("audit", history_age=3600)
        assert [record.getMessage() for record in caplog.records] == [
            "hub 'default': topic 'audit' has history=1000, but the broker's stream keeps 100, of all topics"
            " together: give Hub(history=…) at least as much",
            "hub 'default': topic 'audit' has history_age=3600, but the broker's stream keeps 60, of all"
            " topics together: give Hub(history_age=…) at least as much",
        ]
    with pytest.raises(ValueError, match="history"):
        Hub(store.url, history=0)


def test_the_stream_keeps_about_as_much_as_the_hub_says(store: Store) -> None:
    with Hub(store.broker(min_age=0), history=200) as hub:
        # What is appended at once is not divided: a log on files keeps that many more.
        ids = [one.result() for _ in range(50) for one in [hub.publish("t", n) for n in range(20)]]
        until(lambda: time.time() * 1000 > entry_id(str(ids[-1]))[0] + 10)
        ids.append(hub.publish("t", "one more").result())
        kept = store.ids()
        assert 200 <= len(kept) < 400
        assert kept == ids[-len(kept) :]


def test_a_burst_does_not_push_out_what_others_may_not_have_read(store: Store) -> None:
    with Hub(store.broker(min_age=PATIENCE), history=200) as hub:
        ids = [one.result() for one in [hub.publish("t", n) for n in range(3000)]]
        assert store.ids() == ids


def test_the_stream_forgets_what_is_too_old(store: Store) -> None:
    with Hub(store.url, history=100_000, history_age=0.5) as hub:
        old = [one.result() for one in [hub.publish("t", n) for n in range(500)]]
        until(lambda: time.time() * 1000 > entry_id(str(old[-1]))[0] + 600)
        hub.publish("t", "new").result()
        assert len(store.ids()) < 150  # whole nodes of the stream go, not single entries


EVENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (({"a": [1, None, "é\u2028"]},), {}),
    ((), {"raw_data": "line one\nline two\r\nthree\rfour\n"}),
    ((), {"raw_data": ""}),
    ((), {"raw_data": b"bytes: \xe2\x82\xac"}),
    (("x",), {"event": "tick", "retry": 1500, "comment": "two\nlines"}),
    ((None,), {}),
    ((ServerSentEvent(data="as it is", event="named", retry=7),), {}),
    ((), {"raw_data": "big" * 100_000}),
    ((), {"comment": "nothing but a comment"}),
    (("the end",), {}),
]


@pytest.mark.parametrize("way", ["portable", "httptools"])
def test_events_arrive_as_they_would_without_a_broker(store: Store, way: str) -> None:
    site = Site(way)
    alone, through = site.hub(), site.hub(broker=store.url)
    try:
        with site.stream(alone) as left, site.stream(through) as right:
            for args, options in EVENTS:
                for hub in (alone, through):
                    with suppress(TypeError, ValueError):  # where there is none of them, there is in neither
                        hub.publish("t", *args, **options)
            while True:
                one, other = left.event(), right.event()
                assert (one.event, one.data, one.retry) == (other.event, other.data, other.retry)
                if one.data == '"the end"':
                    break
    finally:
        site.close_hubs()
        site.close()


def test_a_hub_that_was_closed_may_be_used_again(store: Store) -> None:
    hub = Hub(store.url)
    first = hub.publish("t", 1)
    hub.close()
    assert [first.result(0)] == store.ids()
    second = hub.publish("t", 2)
    hub.close()
    assert [first.id, second.id] == store.ids()
    hub.close()
    until(lambda: store.clients() == 0)


def test_a_hub_that_is_dropped_leaves_no_connection(store: Store) -> None:
    hub = Hub(store.url)
    hub.publish("t", 1).result()
    assert store.clients() > 0
    del hub
    gc.collect()
    until(lambda: store.clients() == 0)
