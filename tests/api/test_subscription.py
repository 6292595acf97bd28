"""`Subscription`, the native async iterator, as an application's own code may use it."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from contextlib import aclosing, suppress
from typing import Any

import pytest
from sse_hub import Hub, Subscription
from waiting import PATIENCE


def numbers(wire: bytes) -> list[int]:
    return [int(n) for n in re.findall(rb"^data: (\d+)$", wire, re.MULTILINE)]


async def opened(hub: Hub, topics: Any = "t", **options: Any) -> Subscription:
    """A subscription whose opening was read, and that is attached."""
    stream = hub.subscribe(topics, **options)
    assert b"event: stream-open" in await anext(stream)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return stream


async def read(stream: Subscription, n: int) -> list[int]:
    """At least n numbers."""
    wire = b""
    async with asyncio.timeout(PATIENCE):
        while len(numbers(wire)) < n:
            wire += await anext(stream)
    return numbers(wire)


async def test_a_subscription_knows_its_client() -> None:
    hub = Hub()
    info = {"any": "thing"}
    stream = hub.subscribe(["b", "a"], user="ann", info=info)
    assert re.fullmatch("c-[0-9a-z]{8,13}", stream.id)
    assert (stream.topics, stream.user, stream.recovered, stream.closed) == (("a", "b"), "ann", None, None)
    assert stream.info is info
    found = hub.get(stream.id)
    assert found == stream
    assert found is not None
    assert hash(found) == hash(stream)
    assert found.info is info
    assert stream.id in repr(stream)
    other = hub.subscribe("a")
    assert other != stream
    assert hub.get("c-nobody") is hub.get("") is hub.get("c-") is None
    assert (hub.count(), hub.count("a"), hub.count("b"), hub.count("none")) == (2, 2, 1, 0)
    assert set(hub.subscribers()) == set(hub.subscribers("a")) == {stream, other}
    assert hub.subscribers("b") == [stream]
    assert hub.subscribers("none") == []
    stream.close()
    assert stream.closed == "closed"
    assert repr(stream).endswith("(closed: closed)>")
    assert hub.get(stream.id) is None
    assert stream.topics == ("a", "b")


async def test_what_is_queued_comes_joined() -> None:
    hub = Hub()
    stream = await opened(hub)
    for n in range(100):
        hub.publish("t", n)
    assert numbers(await anext(stream)) == list(range(100))


async def test_subscribers_of_a_loop_share_the_bytes() -> None:
    hub = Hub()
    streams = [await opened(hub) for _ in range(20)]
    hub.publish("t", raw_data="x" * 1000)
    first, *others = [await anext(stream) for stream in streams]
    assert all(chunk is first for chunk in others)
    for n in range(3):
        hub.publish("t", n)
    first, *others = [await anext(stream) for stream in streams]
    assert numbers(first) == [0, 1, 2]
    assert all(chunk is first for chunk in others)


async def test_a_value_that_is_ready_takes_no_trip_through_the_loop() -> None:
    hub = Hub()
    stream = await opened(hub)
    hub.publish("t", 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    turns = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    assert numbers(await anext(stream)) == [1]
    assert turns == []


async def test_one_wake_up_for_a_batch() -> None:
    hub = Hub()
    streams = [await opened(hub) for _ in range(5)]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    for n in range(50):
        hub.publish("t", n)
    assert [numbers(chunk) for chunk in await asyncio.gather(*waiting)] == [list(range(50))] * 5


@pytest.mark.parametrize("timeout", [0.001, 0])
async def test_a_cancelled_wait_loses_nothing(timeout: float) -> None:
    hub = Hub()
    stream = await opened(hub)
    got: list[int] = []
    for n in range(200):
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    got += numbers(await anext(stream))
        hub.publish("t", n)
    while got[-1] != 199:
        got += await read(stream, 1)
    assert got == list(range(200))


async def test_a_wait_cancelled_at_any_moment_loses_nothing() -> None:
    hub = Hub()
    stream = await opened(hub)
    got: list[int] = []
    for n in range(600):
        task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        for _ in range(n % 3):
            await asyncio.sleep(0)
        hub.publish("t", n)
        for _ in range(n // 3 % 5):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            got += numbers(await task)
    hub.publish("t", 600)
    while got[-1] != 600:
        got += await read(stream, 1)
    assert got == list(range(601))


async def test_wait_for_without_time_loses_nothing() -> None:
    hub = Hub()
    stream = await opened(hub)
    hub.publish("t", 1)
    await asyncio.sleep(0.01)
    try:
        wire = await asyncio.wait_for(anext(stream), 0)
    except TimeoutError:
        wire = await anext(stream)
    assert numbers(wire) == [1]


async def test_two_tasks_cannot_iterate_one() -> None:
    hub = Hub()
    stream = await opened(hub)
    first = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="iterated by another task already"):
        await anext(stream)
    hub.publish("t", 1)
    assert numbers(await first) == [1]


async def test_two_tasks_cannot_await_one_step() -> None:
    hub = Hub()
    stream = await opened(hub)
    step = stream.__anext__()
    first = asyncio.ensure_future(step)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="iterated by another task already"):
            await step
        hub.publish("t", 1)
        assert numbers(await first) == [1]
        hub.publish("t", 2)
        assert await read(stream, 1) == [2]


def test_a_reader_that_comes_as_another_one_begins_to_wait_takes_nothing_from_it() -> None:
    """Two threads without a GIL can begin at once; here the loop itself lets one come between."""
    comes: list[Any] = []

    class Loop(asyncio.SelectorEventLoop):
        def create_future(self) -> asyncio.Future[Any]:
            while comes:
                comes.pop()()
            return super().create_future()

    async def main() -> None:
        hub = Hub()
        stream = await opened(hub)

        async def consume() -> list[int]:
            return numbers(await anext(stream))

        other = consume()
        waiting: list[Any] = []
        comes.append(lambda: waiting.append(other.send(None)))
        with pytest.raises(RuntimeError, match="iterated by another task already"):
            await anext(stream)
        hub.publish("t", 1)
        await asyncio.wait(waiting, timeout=PATIENCE)
        with pytest.raises(StopIteration) as done:
            other.send(None)
        assert done.value.value == [1]

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


async def test_a_task_that_comes_between_a_wake_up_and_its_reader_makes_nobody_hang() -> None:
    hub = Hub()
    stream = await opened(hub)

    async def consume() -> list[int]:
        return numbers(await anext(stream))

    first = asyncio.create_task(consume())
    await asyncio.sleep(0)
    hub.publish("t", 1)
    outcomes: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while not first.done() or len(outcomes) < 3:
            second = asyncio.create_task(consume())
            await asyncio.sleep(0)
            hub.publish("t", 2)
            outcomes += await asyncio.gather(second, return_exceptions=True)
    assert all(isinstance(outcome, list | RuntimeError) for outcome in [*outcomes, first.exception() or []])


async def test_the_turn_is_the_first_tasks_until_it_has_run() -> None:
    hub = Hub()
    stream = await opened(hub)
    refused = []

    async def come_between(future: asyncio.Future[Any]) -> None:
        del future
        with pytest.raises(RuntimeError, match="iterated by another task already"):
            await anext(stream)
        refused.append(True)

    first = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    hub.publish("t", 1)
    while not refused:  # In each turn of the loop, the one between the wake-up and the first task's included.
        before = len(refused)
        await come_between(first)
        assert len(refused) == before + 1
        if first.done():
            break
        await asyncio.sleep(0)
    assert numbers(await first) == [1]
    hub.publish("t", 2)
    assert await read(stream, 1) == [2]


@pytest.mark.parametrize("woken", [False, True], ids=["waiting", "woken"])
async def test_a_task_that_is_cancelled_gives_its_turn_to_another(woken: bool) -> None:
    hub = Hub()
    stream = await opened(hub)
    pending = anext(stream)  # Kept, as a traceback may keep it.
    first = asyncio.ensure_future(pending)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    if woken:
        hub.publish("t", 1)
        loop = asyncio.get_running_loop()
        # The loop's reader wakes the first task in the same turn in which this cancels it.
        loop.call_soon(loop.call_soon, first.cancel)
    else:
        first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    if not woken:
        hub.publish("t", 1)
    if first.cancelled():
        assert await read(stream, 1) == [1]
    hub.publish("t", 2)
    assert await read(stream, 1) == [2]
    del pending


async def test_another_loop_cannot_iterate_it() -> None:
    hub = Hub()
    stream = await opened(hub)

    async def consume() -> None:
        await asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="loop"):
        await asyncio.to_thread(asyncio.run, consume())


async def test_an_awaited_step_cannot_be_awaited_again() -> None:
    hub = Hub()
    stream = hub.subscribe("t")
    step = stream.__anext__()
    await step
    with pytest.raises(RuntimeError, match="already awaited"):
        await step


async def test_one_never_iterated_unregisters_when_it_is_dropped() -> None:
    hub = Hub()
    reasons: list[str] = []
    hub.on_disconnect(lambda subscription, reason: reasons.append(reason))
    stream = hub.subscribe("t")
    hub.publish("t", 1)
    assert hub.count("t") == 1
    del stream
    assert hub.count() == hub.count("t") == 0
    await asyncio.sleep(0.01)
    assert reasons == ["closed"]
    handle = hub.get(hub.subscribe("t").id)
    assert handle is None, "dropped at once"
    kept = hub.subscribe("t")
    handle = hub.get(kept.id)
    del kept
    assert handle is not None
    assert handle.closed == "closed", "a handle keeps nothing open"


async def test_one_dropped_while_an_exception_is_on_its_way_does_not_disturb_it() -> None:
    hub = Hub()
    hub.on_disconnect(lambda subscription, reason: None)
    with pytest.raises(TypeError, match="int"):
        int(hub.subscribe("t"))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="int"):
        int(Hub().subscribe("t"))  # type: ignore[call-overload]
    assert hub.count() == 0


async def test_closing_lets_out_what_was_queued() -> None:
    hub = Hub()
    stream = await opened(hub)
    hub.publish("t", 1)
    await asyncio.sleep(0.01)
    hub.get(stream.id).close()  # type: ignore[union-attr]
    hub.publish("t", 2)
    assert [numbers(chunk) async for chunk in stream] == [[1]]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert stream.closed == "closed"


async def test_closing_wakes_a_waiting_task() -> None:
    hub = Hub()
    stream = await opened(hub)
    waiting = asyncio.ensure_future(anext(stream, None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.to_thread(stream.close)
    async with asyncio.timeout(PATIENCE):
        assert await waiting is None


async def test_it_is_a_context_manager_and_can_be_aclosed() -> None:
    hub = Hub()
    async with hub.subscribe("t") as stream:
        assert hub.count() == 1
    assert (hub.count(), stream.closed) == (0, "closed")
    async with aclosing(hub.subscribe("t")) as stream:
        assert hub.count() == 1
    assert (hub.count(), stream.closed) == (0, "closed")
    with pytest.raises(LookupError):
        async with hub.subscribe("t"):
            raise LookupError
    assert hub.count() == 0


async def test_others_have_their_turns_while_many_are_resumed() -> None:
    """A task that must wait for its turn does not fall behind."""
    hub = Hub(capacity=2)
    streams = [await opened(hub) for _ in range(1500)]
    loop = asyncio.get_running_loop()
    resumed = 0
    turns: list[int] = []  # how many were resumed before each

    def turn() -> None:
        turns.append(resumed)
        if len(turns) <= 20:
            time.sleep(0.002)
            hub.publish("t", len(turns))
            loop.call_soon(turn)

    async def consume(stream: Subscription) -> list[int]:
        nonlocal resumed
        got = await read(stream, 1)
        resumed += 1
        if resumed == 1:
            loop.call_soon(turn)
        return got + (await read(stream, 21 - len(got)) if len(got) < 21 else [])

    consumers = [asyncio.create_task(consume(stream)) for stream in streams]
    await asyncio.sleep(0)
    hub.publish("t", 0)
    assert await asyncio.gather(*consumers) == [[*range(21)]] * len(streams)
    assert len([count for count in turns if 0 < count < len(streams)]) >= 8
    assert hub.stats()["overflowed"] == 0
    for stream in streams:
        stream.close()


async def test_it_needs_an_event_loop() -> None:
    hub = Hub()
    with pytest.raises(RuntimeError, match=r"subscribe\(\) needs a running event loop"):
        await asyncio.get_running_loop().run_in_executor(None, hub.subscribe, "t")
    assert hub.count() == 0


async def test_subscriptions_leave_nothing_behind() -> None:
    hub = Hub(history=0)
    hub.on_disconnect(lambda subscription, reason: None)

    class Marker:
        alive = 0

        def __init__(self) -> None:
            Marker.alive += 1

        def __del__(self) -> None:
            Marker.alive -= 1

    for n in range(300):
        stream = hub.subscribe(f"t{n}", info=Marker())
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        waiting.cancel()
        del stream, waiting
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    gc.collect()
    assert Marker.alive == 0
    stats = hub.stats()
    assert (stats["subscribers"], stats["topics"], stats["readers"]) == (0, 0, 1)
    assert stats["connected"] == stats["disconnected"] == 300
