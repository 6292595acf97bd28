"""Runs in one process: how they start, end, fail and stop, and what their watchers receive."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from run_sources import Gate, end, fails_in_a_thread, one, transcript
from sse_hub import Hub, HubClosed, Run, RunState, RunTooLarge, ServerSentEvent, TopicEnded
from sse_hub.testing import Clock, connect
from waiting import until_async

PATIENCE = 30

who = contextvars.ContextVar("who", default="nobody")


async def test_a_run_goes_on_without_a_watcher_and_is_kept() -> None:
    async def count(n: int, *, start: int = 0) -> AsyncIterator[int]:
        for i in range(start, n):
            yield i

    async with Hub() as hub:
        run = await hub.run("r", count, 5, start=2)
        assert (run.id, run.state) == ("r", "running")
        assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.DONE
        assert run.state is RunState.DONE
        for _ in range(2):
            assert await transcript(hub, "r") == ["2", "3", "4", end("done")]


async def test_what_it_yields_means_what_it_means_in_publish() -> None:
    async def events() -> AsyncIterator[Any]:
        yield {"a": [1, None]}
        yield "text"
        yield ServerSentEvent("raw", event="named")

    async with Hub() as hub:
        await (await hub.run("r", events)).wait()
        assert await transcript(hub, "r") == ['{"a":[1,null]}', '"text"', "named raw", end("done")]


async def test_a_second_start_joins_and_a_finished_one_is_given_back() -> None:
    async with Hub() as hub:
        gate = Gate()
        first, second = await asyncio.gather(*(hub.run("r", gate.source, n) for n in (1, 2)))
        assert first is second
        gate.steps.put_nowait(None)
        await first.wait()
        assert gate.calls == 1
        assert await hub.run("r", gate.source, 3) is first
        assert await transcript(hub, "r") == ["1", end("done")]


async def test_a_name_is_free_after_keep() -> None:
    async def once(value: int) -> AsyncIterator[int]:
        yield value

    async with Hub() as hub:
        first = await hub.run("r", once, 1, keep=0)
        await first.wait()
        second = await hub.run("r", once, 2)
        await second.wait()
        assert second is not first
        assert await transcript(hub, "r") == ["2", end("done")]
        async with connect(hub.follow("r"), "/", control=True) as client:
            assert (await client.next()).data == "", "all of it is there"


async def test_a_name_is_taken_for_as_long_as_keep(clock: Clock) -> None:
    async with clock.hub() as hub:
        first = await hub.run("r", one, keep=60)
        await first.wait()
        await clock.advance(59)
        assert await hub.run("r", one) is first
        assert await transcript(hub, "r") == ["1", end("done")]
        await clock.advance(2)
        assert (await answer(hub.follow("r"), None))["status"] == 204
        second = await hub.run("r", one)
        assert second is not first
        assert await second.wait() is RunState.DONE


async def test_a_run_that_is_forgotten_leaves_a_later_one_of_its_name(clock: Clock) -> None:
    reached, started = threading.Event(), threading.Event()

    class ByName(dict[str, Run]):
        def get(self, name: str, default: Any = None) -> Any:
            found = super().get(name, default)
            if threading.current_thread() is not threading.main_thread():
                reached.set()
                started.wait(0.2)  # a start that has to wait for this thread comes after it
            return found

    async with clock.hub() as hub:
        first = await hub.run("r", one, keep=60)
        await first.wait()
        await clock.advance(61)
        hub._runs._by_name = ByName(hub._runs._by_name)
        forgetting = asyncio.create_task(asyncio.to_thread(hub._runs._forget, first))
        assert await asyncio.to_thread(reached.wait, PATIENCE)
        second = await hub.run("r", Gate().source)
        started.set()
        await forgetting
        assert await hub.run("r", one) is second


async def test_a_run_starts_another_one_at_once() -> None:
    """With eager tasks, which Python has from 3.12 on, it begins while it is being started."""
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))

    async def outer() -> AsyncIterator[int]:
        await (await hub.run("inner", one)).wait()
        yield 2

    async with Hub() as hub:
        assert await (await hub.run("outer", outer)).wait() is RunState.DONE
        assert await transcript(hub, "outer") == ["2", end("done")]


async def test_a_start_gets_the_ended_run_while_its_name_is_taken(clock: Clock) -> None:
    """Some loops' timers are a little early: the hub's clock decides."""
    async with clock.hub() as hub:
        first = await hub.run("r", one, keep=0.001)
        await first.wait()
        await asyncio.sleep(0.002)  # the run's timer is due before
        assert await hub.run("r", one) is first
        await clock.advance(1)
        assert await hub.run("r", one) is not first


async def test_a_run_whose_topic_is_ended_is_stopped_and_writes_to_no_other(clock: Clock) -> None:
    gate, other = Gate(), Gate()
    async with clock.hub() as hub:
        run = await hub.run("r", gate.source, 1)
        watching = asyncio.create_task(transcript(hub, "r"))
        await until_async(lambda: hub.count("r") == 1)
        hub.end("r", keep=0)
        gate.steps.put_nowait(2)
        second = await hub.run("r", other.source, "other")
        assert await watching == ["1", end("stopped")]
        assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.STOPPED
        assert gate.closed.is_set()
        assert (second is not run, second.state) == (True, RunState.RUNNING)
        other.steps.put_nowait(None)
        assert await second.wait() is RunState.DONE
        assert await transcript(hub, "r") == ['"other"', end("done")]


async def test_a_generator_runs_in_threads_with_the_callers_context() -> None:
    threads = set()

    def count() -> Iterator[Any]:
        for _ in range(3):
            threads.add(threading.current_thread())
            yield who.get()

    async def also() -> AsyncIterator[str]:
        yield who.get()

    async with Hub() as hub:
        token = who.set("ann")
        runs = [await hub.run("sync", count), await hub.run("async", also)]
        who.reset(token)
        for run in runs:
            await run.wait()
        assert threading.main_thread() not in threads
        assert await transcript(hub, "sync") == ['"ann"'] * 3 + [end("done")]
        assert await transcript(hub, "async") == ['"ann"', end("done")]


async def test_stop_cancels_where_it_waits_and_finally_runs() -> None:
    async with Hub() as hub:
        gate = Gate()
        run = await hub.run("r", gate.source, 1)
        watcher = asyncio.create_task(transcript(hub, "r"))
        await asyncio.sleep(0)
        assert await hub.stop("r") is True
        assert gate.closed.is_set()
        assert run.state is RunState.STOPPED
        assert await watcher == ["1", end("stopped")]
        assert await hub.stop("r") is False
        assert await run.stop() is False
        assert await hub.stop("no such run") is False


async def test_one_that_is_stopped_before_its_first_step_ends() -> None:
    async with Hub() as hub:
        run = await hub.run("r", Gate().source)
        assert await run.stop() is True
        assert await transcript(hub, "r") == [end("stopped")]


async def test_one_that_does_not_close_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    freed = asyncio.Event()

    async def stubborn() -> AsyncIterator[int]:
        yield 1
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            await freed.wait()
            yield 2  # after the end: nobody gets it

    async with Hub(grace=0.1) as hub:
        run = await hub.run("r", stubborn)
        assert await asyncio.wait_for(run.stop(), PATIENCE) is True
        assert "has not returned yet" in caplog.text
        freed.set()
        assert await transcript(hub, "r") == ["1", end("stopped")]


async def test_a_generator_that_ignores_the_cancellation_is_closed() -> None:
    closed = []

    async def deaf() -> AsyncIterator[int]:
        try:
            while True:
                try:
                    await asyncio.sleep(PATIENCE)
                except asyncio.CancelledError:
                    yield 1
        finally:
            closed.append(True)

    async with Hub() as hub:
        run = await hub.run("r", deaf)
        await asyncio.sleep(0)
        assert await asyncio.wait_for(run.stop(), PATIENCE)
        assert closed == [True]
        assert await transcript(hub, "r") == [end("stopped")]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, '{"state":"failed"}'),
        (lambda error: None, '{"state":"failed"}'),
        (lambda error: f"sorry: {error}", '{"state":"failed","error":"sorry: secret"}'),
        (lambda error: 1 / 0, '{"state":"failed"}'),
    ],
)
async def test_a_failure_is_in_the_log_and_clients_get_what_is_said(
    error: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hub() as hub:
        gate = Gate()
        run = await hub.run("r", gate.source, 1, error=error)
        gate.steps.put_nowait(RuntimeError("secret"))
        assert await run.wait() is RunState.FAILED
        got = await transcript(hub, "r")
        assert sorted(got[-1].removeprefix("stream-end ")) == sorted(told)
        assert got[:-1] == ["1"]
        assert "raise step" in caplog.text, "the traceback"
        assert "run 'r' failed: secret" in caplog.text


async def test_a_failure_in_a_thread_is_in_the_log_and_no_client_gets_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Hub() as hub:
        run = await hub.run("r", fails_in_a_thread)
        assert await run.wait() is RunState.FAILED
        for format in (None, "ai-sdk", "openai", "ag-ui"):
            got = await transcript(hub, "r", format=format)
            assert (len(got), got[0]) == (2, "1")
            assert "secret" not in got[1]
    assert "run 'r' failed: secret" in caplog.text
    assert 'raise RuntimeError("secret")' in caplog.text, "the traceback"


async def test_a_value_that_is_no_event_fails_the_run(caplog: pytest.LogCaptureFixture) -> None:
    async with Hub() as hub:
        gate = Gate()
        run = await hub.run("r", gate.source, 1, object())
        assert await run.wait() is RunState.FAILED
        assert await transcript(hub, "r") == ["1", end("failed")]


async def test_a_run_that_is_too_large_fails_and_keeps_its_head(caplog: pytest.LogCaptureFixture) -> None:
    errors = []
    async with Hub(history=2, history_bytes=10, history_total_bytes=10) as hub:
        gate = Gate()
        run = await hub.run("r", gate.source, *range(100), max_bytes=400, error=errors.append)
        assert await run.wait() is RunState.FAILED
        got = await transcript(hub, "r")
        assert got == [*map(str, range(len(got) - 1)), end("failed")]
        assert len(got) > 20
        assert isinstance(errors[0], RunTooLarge)
        assert "max_bytes=400" in caplog.text


async def test_it_waits_while_delivery_is_behind() -> None:
    async def many() -> AsyncIterator[str]:
        for n in range(50):
            yield f"{n:05} {'x' * 1000}"

    async with Hub(backlog_bytes=3000) as hub:
        stalled = asyncio.new_event_loop()  # it never runs: what waits for it holds publishers back
        held: list[Any] = []

        def subscribe() -> None:
            async def on_its_loop() -> None:
                held.append(hub.subscribe("r"))

            stalled.run_until_complete(on_its_loop())

        await asyncio.to_thread(subscribe)
        run = await hub.run("r", many)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.wait(), 0.2)
        assert run.state is RunState.RUNNING
        held.clear()
        gc.collect()
        stalled.close()
        assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.DONE
        assert len(await transcript(hub, "r")) == 51


async def test_idle_stops_what_nobody_watches() -> None:
    async with Hub() as hub:
        gate = Gate()
        run = await hub.run("r", gate.source, 1, idle=0.2)
        watcher = hub.subscribe("r")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.wait(), 0.6)
        watcher.close()
        assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.STOPPED
        assert gate.closed.is_set()


async def test_on_finish_gets_the_run_and_what_it_yielded(caplog: pytest.LogCaptureFixture) -> None:
    finished: asyncio.Queue[Any] = asyncio.Queue()

    async def persist(run: Run, events: list[Any]) -> None:
        finished.put_nowait((run.id, run.state.value, events))

    def broken(run: Run, events: list[Any]) -> None:
        raise RuntimeError("database")

    async with Hub() as hub:
        gate = Gate()
        gate.steps.put_nowait(None)
        await hub.run("a", gate.source, {"n": 1}, "x", on_finish=persist)
        assert await asyncio.wait_for(finished.get(), PATIENCE) == ("a", "done", [{"n": 1}, "x"])
        run = await hub.run("b", Gate().source, 1, on_finish=persist)
        await asyncio.sleep(0)
        await run.stop()
        assert await asyncio.wait_for(finished.get(), PATIENCE) == ("b", "stopped", [1])
        gate.steps.put_nowait(RuntimeError("source"))
        await hub.run("failed", gate.source, 1, on_finish=persist)
        assert await asyncio.wait_for(finished.get(), PATIENCE) == ("failed", "failed", [1])
        gate.steps.put_nowait(None)
        await (await hub.run("c", gate.source, on_finish=broken)).wait()
        await asyncio.sleep(0)
        assert "database" in caplog.text


async def test_nothing_is_published_to_a_run_that_has_ended() -> None:
    async with Hub() as hub:
        await (await hub.run("r", one)).wait()
        with pytest.raises(TopicEnded):
            hub.publish("r", 1)
        hub.end("ended")
        with pytest.raises(TopicEnded):
            await hub.run("ended", one)


async def test_a_client_that_returns_gets_the_rest_and_then_204() -> None:
    async with Hub() as hub:
        gate = Gate()
        run = await hub.run("r", gate.source, 1, 2)
        async with connect(hub.follow("r"), "/", control=True) as client:
            await client.next()
            seen = (await client.next()).id
        gate.steps.put_nowait(3)
        gate.steps.put_nowait(None)
        await run.wait()
        async with connect(hub.follow("r"), "/", last_event_id=seen, control=True) as client:
            got = [event async for event in client]
        assert [event.data for event in got][1:] == ["2", "3", '{"state":"done"}']
        status = (await answer(hub.follow("r"), got[-1].id))["status"]
        assert status == 204
        assert (await answer(hub.follow("no such run"), None))["status"] == 204


async def answer(response: Any, last_event_id: str | None) -> dict[str, Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(PATIENCE)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"last-event-id", last_event_id.encode())] if last_event_id else []
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""}
    await response(scope, receive, send)
    assert sent[1] == {"type": "http.response.body", "body": b"", "more_body": False}
    return dict(sent[0])


def not_a_generator() -> int:
    return 1


async def coroutine() -> int:
    return 1


@pytest.mark.parametrize(
    ("function", "options", "error", "text"),
    [
        (not_a_generator, {}, TypeError, "generator function"),
        (coroutine, {}, TypeError, "generator function"),
        (one(), {}, TypeError, "not called yet"),
        (one, {"surplus": 1}, TypeError, "surplus"),
        (one, {"keep": -1}, ValueError, "keep"),
        (one, {"keep": "x"}, TypeError, "keep"),
        (one, {"idle": 0}, ValueError, "idle"),
        (one, {"max_bytes": 0}, ValueError, "max_bytes"),
        (one, {"max_bytes": 1.5}, TypeError, "max_bytes"),
        (one, {"on_finish": 1}, TypeError, "on_finish"),
        (one, {"error": "text"}, TypeError, "error"),
    ],
)
async def test_mistakes_are_raised_at_the_call(
    function: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with Hub() as hub:
        with pytest.raises(error, match=text):
            await hub.run("r", function, **options)
        assert (await answer(hub.follow("r"), None))["status"] == 204, "nothing was begun"
        await (await hub.run("r", one)).wait()


async def test_follow_refuses_what_a_run_decides() -> None:
    async with Hub() as hub:
        for options in ({"replay": 1}, {"control": False}, {"overflow": "drop_oldest"}):
            with pytest.raises(TypeError, match=next(iter(options))):
                hub.follow("r", **options)
        with pytest.raises(ValueError, match="format"):
            hub.follow("r", format="xml")  # type: ignore[arg-type]


async def test_a_closing_hub_runs_nothing() -> None:
    hub = Hub()
    hub.subscribe("t")
    hub._refuse()
    with pytest.raises(HubClosed):
        await hub.run("r", one)
    await hub.aclose()


async def test_a_run_costs_its_loop_no_fairness() -> None:
    turns = 0

    async def endless() -> AsyncIterator[int]:
        n = 0
        while turns < 5:
            yield (n := n + 1)

    async def ticker() -> None:
        nonlocal turns
        while turns < 5:
            await asyncio.sleep(0)
            turns += 1

    async with Hub() as hub:
        run = await hub.run("r", endless)
        await asyncio.wait_for(ticker(), PATIENCE)
        assert await run.wait() is RunState.DONE
