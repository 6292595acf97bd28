"""Runs over a broker, whose log may have trimmed them, and work that one process hands on to another."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from held import DIRECTORY, paused_where_it_stands_still
from redis_server import RedisServer
from redis_workers import client_of
from run_sources import Gate, ThreadGate, end, fails, fails_in_a_thread, one, transcript
from servers import run, uvicorn
from sse_hub import Hub, HubClosed, RunState, RunTooLarge
from sse_hub.testing import connect
from stores import Store
from waiting import PATIENCE, until, until_async
from wire import Stream


@pytest.mark.parametrize("function", [fails, fails_in_a_thread])
async def test_a_failure_is_in_the_log_of_its_process_and_no_client_gets_its_text(
    store: Store, function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hub(store.url) as hub, Hub(store.url) as other:
        run = await hub.run("r", function)
        assert await run.wait() is RunState.FAILED
        for watched in (hub, other):
            for format in (None, "ai-sdk", "openai", "ag-ui"):
                got = await transcript(watched, "r", format=format)
                assert (len(got), got[0]) == (2, "1")
                assert "secret" not in got[1]
                assert got[1] != "[DONE]"
    assert caplog.text.count("run 'r' failed: secret") == 1
    assert 'raise RuntimeError("secret")' in caplog.text, "the traceback"


async def test_a_process_that_starts_when_a_run_is_trimmed_knows_how_it_ended(store: Store) -> None:
    async with Hub(store.url) as first:
        run = await first.run("r", fails, error=lambda error: "sorry")
        assert await run.wait() is RunState.FAILED
        await first.publish("other", 1)
        store.trim(keep=1)
        async with Hub(store.url) as later:
            async with connect(later.follow("r"), "/", control=True) as client:
                opening, ending = [event async for event in client]
                assert json.loads(opening.data) == {"complete": False}
                assert json.loads(ending.data) == {"state": "failed", "error": "sorry"}
                last = client.last_event_id
            assert await transcript(later, "r", last_event_id=last) == []
            async with connect(later.follow("r", format="openai"), "/") as refused:
                assert refused.status_code == 409
            again = await asyncio.wait_for(later.run("r", fails), PATIENCE)
            assert await again.wait() is RunState.FAILED
            assert await later.stop("r") is False
            assert await transcript(later, "nowhere") == []


async def test_a_process_that_starts_when_a_beginning_is_trimmed_shows_the_rest(store: Store) -> None:
    gate = Gate()
    async with Hub(store.url) as first:
        run = await first.run("r", gate.source, 1)
        gate.steps.put_nowait(2)
        await until_async(lambda: first.stats()["cursor"] >= 4)
        store.trim(keep=1)
        async with Hub(store.url) as later:
            joined = await asyncio.wait_for(later.run("r", gate.source), PATIENCE)
            watcher = asyncio.create_task(transcript(later, "r"))
            await until_async(lambda: later.count("r") == 1)
            gate.steps.put_nowait(None)
            assert await watcher == ["2", end("done")]
            assert await joined.wait() is await run.wait() is RunState.DONE
        assert gate.calls == 1


async def test_a_run_is_whole_in_a_process_that_started_with_a_trimmed_log(store: Store) -> None:
    async with Hub(store.url) as first:
        for n in range(3):
            await first.publish("other", n)
        store.trim(keep=1)
        async with Hub(store.url) as later:
            await later.publish("other", 3)
            run = await first.run("r", fails)
            joined = await later.run("r", fails)
            assert await joined.wait() is await run.wait() is RunState.FAILED
            async with connect(later.follow("r"), "/", control=True) as client:
                got = [(event.event, event.data) async for event in client]
                assert got[:2] == [("stream-open", ""), ("message", "1")]
            async with connect(later.follow("r", format="openai"), "/") as client:
                assert client.status_code == 200


async def until_present(hub: Hub, count: int, topic: str | None = None) -> None:
    while (await hub.presence(topic)).count != count:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_watchers_at_every_process_receive_the_run_and_no_broadcast(store: Store) -> None:
    gate = Gate()
    async with Hub(store.url, history=3) as first, Hub(store.url, history=3) as other:
        await first.broadcast("kept from before")
        run = await first.run("r", gate.source, 1)
        async with asyncio.timeout(PATIENCE):
            async with connect(other.follow("r"), "/") as client:
                assert (await client.next(PATIENCE)).data == "1"
                await until_present(first, 1)
                await until_present(first, 1, "r")
                for n in range(8):
                    await first.broadcast(n)
                gate.steps.put_nowait(2)
                assert (await client.next(PATIENCE)).data == "2"
            await until_present(first, 0)
        gate.steps.put_nowait(3)
        gate.steps.put_nowait(None)
        assert await run.wait() is RunState.DONE
        joined = await other.run("r", gate.source)
        assert await joined.wait() is RunState.DONE
        for hub in (first, other):
            assert await transcript(hub, "r") == ["1", "2", "3", end("done")]
            assert await transcript(hub, "r", last_event_id=client.last_event_id) == ["3", end("done")]
            again = await transcript(hub, "r", last_event_id=client.last_event_id, format="openai")
            assert again == ["3", "[DONE]"]


async def test_a_run_has_ended_for_its_process_as_soon_as_its_watchers_are_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with Hub(store.url) as hub:
        run = await hub.run("r", gate.source, 1)
        publish_end = hub._end_run
        seen: list[Any] = []

        def published_and_followed(*arguments: Any) -> Any:
            # The end is in the log, and this loop, which is blocked, has yet to read the broker's answer.
            answer = publish_end(*arguments)
            until(lambda: hub._ending("r") is not None)
            stopping = hub.stop("r")
            try:
                stopping.send(None)
            except StopIteration as stopped:
                seen.extend([run.state, stopped.value])
            stopping.close()
            return answer

        monkeypatch.setattr(hub, "_end_run", published_and_followed)
        gate.steps.put_nowait(None)
        assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.DONE
        assert seen == [RunState.DONE, False]


async def test_a_run_whose_name_is_free_at_once_is_stopped_by_another_process(store: Store) -> None:
    async with Hub(store.url) as first, Hub(store.url) as other:
        for n in range(30):
            run = await first.run(f"r {n}", Gate().source, 1, keep=0)
            joined = await other.run(f"r {n}", Gate().source)
            assert await asyncio.wait_for(joined.stop(), PATIENCE) is True
            assert joined.state is await run.wait() is RunState.STOPPED


async def test_the_end_of_a_run_whose_name_is_free_is_known_elsewhere(store: Store) -> None:
    gate = Gate()
    async with Hub(store.url) as first, Hub(store.url) as other:
        run = await first.run("r", gate.source, 1, keep=0)
        joined = await other.run("r", gate.source)
        gate.steps.put_nowait(None)
        assert await run.wait() is RunState.DONE
        await until_async(lambda: other._is_followed("r") is False)
        assert joined.state is RunState.DONE
        assert await asyncio.wait_for(joined.wait(), PATIENCE) is RunState.DONE
        assert await joined.stop() is await other.stop("r") is False


@pytest.mark.parametrize("keep", [0, 60])
async def test_a_run_whose_topic_is_ended_elsewhere_is_stopped(store: Store, keep: float) -> None:
    gate = Gate()
    async with Hub(store.url) as first, Hub(store.url) as other:
        run = await first.run("r", gate.source, 1)
        joined = await other.run("r", gate.source)
        watching = asyncio.create_task(transcript(first, "r", format="openai"))
        await until_async(lambda: first.count("r") == 1)
        await other.end("r", keep=keep)
        assert await asyncio.wait_for(run.wait(), PATIENCE) is await joined.wait() is RunState.STOPPED
        assert gate.closed.is_set()
        one, error = await watching
        assert (one, json.loads(error)["error"]["code"]) == ("1", "stopped")
        again = await asyncio.wait_for(other.run("r", gate.source), PATIENCE)
        assert again.state is (RunState.STOPPED if keep else RunState.RUNNING), "its name is free"


async def test_an_id_of_another_run_of_the_name_is_a_newcomers(store: Store) -> None:
    async with Hub(store.url) as first, Hub(store.url) as other:
        gate = Gate()
        run = await first.run("r", gate.source, 1, 2, keep=0)
        async with connect(first.follow("r"), "/") as client:
            assert (await client.next()).data == "1"
            old = client.last_event_id
        await run.stop()
        second = await first.run("r", Gate().source, 3)
        for hub in (first, other):
            async with connect(hub.follow("r"), "/", last_event_id=old, control=True) as client:
                seen = [await client.next() for _ in range(3)]
            reset, event = seen[1:]
            assert (reset.event, reset.json()["reason"], event.data) == ("stream-reset", "evicted", "3")
        assert second.state is RunState.RUNNING


async def test_who_starts_a_run_can_watch_it_although_it_is_over_at_once(store: Store) -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async with Hub(store.url) as hub:
        for _ in range(30):
            run = await hub.run("r", one, keep=0)
            sent: list[Any] = []
            send = partial(asyncio.to_thread, sent.append)
            scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
            await run.response(format="openai")(scope, receive, send)
            lines = b"".join(message.get("body", b"") for message in sent).splitlines()
            data = [line for line in lines if line.startswith(b"data")]
            assert (sent[0]["status"], data) == (200, [b"data: 1", b"data: [DONE]"])
            assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.DONE


async def test_a_process_that_loses_its_lease_before_it_begins_a_run_starts_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hub(store.url) as hub, Hub(store.url) as other:
        take_lease, calls = hub._take_lease, []

        async def paused(name: str, token: str) -> bool:
            is_held = await take_lease(name, token)
            calls.append(name)
            if len(calls) == 1:
                # As if its time had passed, and another process had had it.
                hub._release(name, token)
                while not await other._take_lease(name, "other"):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                other._release(name, "other")
            return is_held

        monkeypatch.setattr(hub, "_take_lease", paused)
        run = await asyncio.wait_for(hub.run("r", one), PATIENCE)
        assert len(calls) > 1
        assert await run.wait() is RunState.DONE
        assert await transcript(other, "r") == ["1", end("done")]


async def test_a_run_that_was_waited_for_has_freed_its_name(store: Store) -> None:
    async def answers() -> AsyncIterator[int]:
        yield 1

    async with Hub(store.url) as hub:
        runs = []
        for _ in range(30):
            runs.append(await hub.run("r", answers, keep=0))
            assert await asyncio.wait_for(runs[-1].wait(), PATIENCE) is RunState.DONE
        assert len(set(map(id, runs))) == 30


async def test_waiting_for_a_run_elsewhere_ends_with_the_hub(store: Store) -> None:
    gate = Gate()
    async with Hub(store.url) as first, Hub(store.url) as other:
        run = await first.run("r", gate.source, 1)
        joined = await other.run("r", gate.source)
        waits = asyncio.create_task(joined.wait())
        await asyncio.sleep(0)
        await other.aclose()
        with pytest.raises(HubClosed, match="goes on in another process"):
            await asyncio.wait_for(waits, PATIENCE)
        assert run.state is RunState.RUNNING
        gate.steps.put_nowait(None)
        assert await run.wait() is RunState.DONE


async def test_a_start_that_is_cancelled_leaves_no_run_without_a_driver(store: Store) -> None:
    gate = Gate()
    async with Hub(store.url) as hub:
        await hub.publish("warm", 1)
        for turns in range(40):
            starting = asyncio.create_task(hub.run(f"r {turns}", gate.source))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
        runs = [f"r {turns}" for turns in range(40)]
        for name in runs:
            run = await asyncio.wait_for(hub.run(name, gate.source), PATIENCE)
            assert run.state is RunState.RUNNING
            assert await run.stop()


async def test_a_name_is_free_after_keep_at_every_process(store: Store) -> None:
    keep = 0.5
    async with Hub(store.url) as first, Hub(store.url) as other:
        gate = Gate()
        run = await first.run("r", gate.source, 1, keep=keep)
        joined = await other.run("r", gate.source)
        gate.steps.put_nowait(None)
        began = time.monotonic()
        assert await joined.wait() is await run.wait() is RunState.DONE
        for hub in (other, first):
            async with asyncio.timeout(PATIENCE):
                while await transcript(hub, "r"):  # noqa: ASYNC110  (until it is 204)
                    await asyncio.sleep(0.01)
            assert time.monotonic() - began >= 0.9 * keep
        again = await other.run("r", fails)
        assert await again.wait() is RunState.FAILED
        for hub in (other, first):
            assert await transcript(hub, "r") == ["1", end("failed")]


async def test_a_run_that_is_too_large_keeps_its_head_at_every_process(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with Hub(store.url, history=2) as first, Hub(store.url, history=2) as other:
        await other.publish("warm", 1)
        run = await first.run("r", Gate().source, *range(100), max_bytes=400, error=errors.append)
        joined = await other.run("r", fails)
        assert await joined.wait() is await run.wait() is RunState.FAILED
        got = await transcript(first, "r")
        assert got == [*map(str, range(len(got) - 1)), end("failed")]
        assert len(got) > 5
        assert await transcript(other, "r") == got
    assert isinstance(errors[0], RunTooLarge)
    assert "max_bytes=400" in caplog.text


@pytest.mark.parametrize("state", [RunState.DONE, RunState.STOPPED])
async def test_a_run_waits_while_too_much_waits_for_the_broker(store: Store, state: RunState) -> None:
    gate = Gate()
    # One publication waits behind the one that is on its way; the next is refused, and so is the end.
    hub = Hub(store.broker(timeout=PATIENCE), backlog_bytes=1)
    async with hub, Hub(store.url) as other:
        run = await hub.run("r", gate.source, 1)
        watcher = asyncio.create_task(transcript(other, "r"))
        await until_async(lambda: other.count("r") == hub.stats()["published"] == 1)
        await until_async(lambda: hub.stats()["unsent"] == 0)  # its answer may come after the event itself
        store.pause()
        for step in (2, 3, 4, 5, None):
            gate.steps.put_nowait(step)
        await until_async(lambda: gate.steps.qsize() <= 2)  # 2 is on its way, 3 waits, 4 is refused
        if state is RunState.STOPPED:
            stopping = asyncio.create_task(run.stop())
            await gate.closed.wait()
        refused = hub.stats()["refused"]
        await until_async(lambda: hub.stats()["refused"] > refused + 1)
        assert run.state is RunState.RUNNING
        store.resume()
        assert await asyncio.wait_for(run.wait(), PATIENCE) is state
        if state is RunState.STOPPED:
            assert await stopping is True
        got = await asyncio.wait_for(watcher, PATIENCE)
        assert got == [*map(str, range(1, len(got))), end(state)]
        assert len(got) == 6 or state is RunState.STOPPED


async def test_a_process_that_pauses_for_longer_than_its_lease_writes_no_more(
    store: Store, tmp_path: Path
) -> None:
    command = uvicorn("runs_app:app", "--no-access-log")
    command.env |= {"SSE_HUB_URL": store.url, DIRECTORY: str(tmp_path)}
    lost = ["r 0", "r 1", {"state": "lost"}]
    with run(command) as owner, client_of(owner.port) as http:
        http.put("/runs/r", params={"count": 2}).raise_for_status()
        async with Hub(store.url) as other:
            with Stream(owner.port, "/runs/r", method="POST") as own:
                assert own.take(2) == lost[:2]
                watcher = asyncio.create_task(transcript(other, "r"))
                await until_async(lambda: other.count("r") == 1)
                with paused_where_it_stands_still(owner, store, tmp_path):
                    assert await asyncio.wait_for(watcher, PATIENCE) == ['"r 0"', '"r 1"', end("lost")]
                # It yields another word now.
                assert http.get("/runs/r/end").json() == ["lost", "lost"]
                assert [event.json() for event in own.rest()] == lost[2:], "its own watchers learn it, too"
            owner.wait_for("finally of r")
            here = http.get("/here").json()
            assert here["finished"] == [["r", "lost"]]
            await until_async(lambda: other.stats()["runs"]["lost"] > 0)  # once the broker has answered
            assert [here["runs"]["lost"], other.stats()["runs"]["lost"]] == [0, 1], "counted once"
            assert ["r 1" in store.content(), "r 2" in store.content()] == [True, False]
            assert await transcript(other, "r") == ['"r 0"', '"r 1"', end("lost")]


@pytest.fixture(params=["alone", "redis", "file"])
async def hubs(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Hub, Hub]]:
    """Where a run is driven and where it is watched: the hub of one process, or those of two."""
    if request.param == "alone":
        async with Hub(grace=PATIENCE) as hub:
            yield hub, hub
        return
    with RedisServer() if request.param == "redis" else FileServer() as store:
        async with Hub(store.url, grace=PATIENCE) as here, Hub(store.url) as there:
            await there.publish("warm", 1)
            yield here, there


async def test_a_def_generator_is_stopped_after_the_step_it_is_in(hubs: tuple[Hub, Hub]) -> None:
    here, there = hubs
    gate = ThreadGate()
    run = await here.run("r", gate.source, 1)
    watcher = asyncio.create_task(transcript(there, "r"))
    await until_async(gate.waits.is_set)
    stopping = asyncio.create_task(there.stop("r"))
    await until_async(lambda: run._driver._is_stopping)
    assert not gate.closed.is_set()
    gate.steps.put(2)  # nobody gets it
    assert await asyncio.wait_for(stopping, PATIENCE) is True
    assert gate.closed.is_set(), "its `finally` has run"
    assert await asyncio.wait_for(watcher, PATIENCE) == ["1", end("stopped")]
    assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.STOPPED
    assert threading.main_thread() not in gate.threads


async def test_a_def_generator_that_fails(hubs: tuple[Hub, Hub], caplog: pytest.LogCaptureFixture) -> None:
    here, there = hubs
    gate = ThreadGate()
    run = await here.run("r", gate.source, 1, error=lambda error: f"sorry: {error}")
    watcher = asyncio.create_task(transcript(there, "r"))
    gate.steps.put(RuntimeError("secret"))
    assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.FAILED
    first, ending = await asyncio.wait_for(watcher, PATIENCE)
    assert first == "1"
    told = json.loads(ending.removeprefix("stream-end "))
    assert told == {"state": "failed", "error": "sorry: secret"}
    assert gate.closed.is_set()
    assert threading.main_thread() not in gate.threads
    assert "raise step" in caplog.text, "the traceback"


class Relay:
    """Hubs that want to produce the same, each of which notes when it begins."""

    def __init__(self, url: str) -> None:
        self.hubs = [Hub(url), Hub(url)]
        self.began: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
        self.finish = [asyncio.Event(), asyncio.Event()]

    async def produce(self, number: int, publish: Callable[..., Any]) -> None:
        self.began.put_nowait((number, time.monotonic()))
        await self.finish[number].wait()

    def join(self, number: int) -> asyncio.Task[None]:
        self.finish[number].clear()
        return asyncio.create_task(
            self.hubs[number].once("name", lambda publish: self.produce(number, publish))
        )


@pytest.mark.parametrize("way", ["returns", "is cancelled", "its hub closes"])
async def test_another_takes_over_at_once_when_the_work(store: Store, way: str) -> None:
    relay = Relay(store.url)
    tasks = {number: relay.join(number) for number in (0, 1)}
    number, _ = await relay.began.get()
    took = []
    for _ in range(5):
        # The other has tried to take the lease; it would try again after a second.
        await asyncio.sleep(0.1)
        since = time.monotonic()
        if way == "returns":
            relay.finish[number].set()
        elif way == "is cancelled":
            tasks[number].cancel()
        else:
            closing = asyncio.create_task(relay.hubs[number].aclose())
        other, at = await asyncio.wait_for(relay.began.get(), PATIENCE)
        assert other == 1 - number
        took.append(at - since)
        with suppress(asyncio.CancelledError, HubClosed):
            await tasks[number]
        if way == "its hub closes":
            await closing
        tasks[number] = relay.join(number)
        number = other
    assert min(took) < 0.7, took  # each, unless the machine is busy
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    for hub in relay.hubs:
        await hub.aclose()


async def test_a_wait_that_is_cancelled_takes_no_lease(store: Store) -> None:
    relay = Relay(store.url)
    for _ in range(20):
        first = relay.join(0)
        await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    while not relay.began.empty():
        relay.began.get_nowait()
    second = relay.join(1)
    assert (await asyncio.wait_for(relay.began.get(), PATIENCE))[0] == 1
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    for hub in relay.hubs:
        await hub.aclose()
