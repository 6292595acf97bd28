"""Heartbeats and everything else that time does, on a clock the test drives."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from loops import LOOP_TYPES
from sse_hub import EndKind, EndReason, Hub
from sse_hub.testing import Clock, EventClient, connect


async def beating(hub: Hub, topics: str = "t") -> EventClient:
    client = await connect(hub.endpoint(topics), "/", control=True, comments=True)
    assert [event.event for event in await client.take(2)] == [":", "stream-open"]
    return client


async def test_a_silent_stream_gets_a_comment(clock: Clock) -> None:
    hub = clock.hub(heartbeat=20)
    client = await beating(hub)
    times, now = [0.0], 0.0
    while now < 100:
        now += 0.25
        await clock.advance(0.25)
        if hub.stats()["heartbeats"] == len(times):
            times.append(now)
            beat = await client.next(0)
            assert (beat.is_comment, beat.data) == (True, "")
        await client.silent()
    assert len(times) >= 5
    assert all(15 <= after - before <= 20.25 for before, after in itertools.pairwise(times))
    await client.close()


async def test_only_silence_makes_a_heartbeat(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10)
    client = await beating(hub)
    for n in range(10):
        await clock.advance(7)
        hub.publish("t", n)
        assert (await client.next()).data == str(n)
    assert hub.stats()["heartbeats"] == 0
    await client.close()


async def test_a_client_that_was_away_gets_heartbeats_as_soon_as_it_is_back(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10, stall_timeout=1000)
    client = await beating(hub)
    client.pause()
    hub.publish("t", 1)
    await clock.advance(15)  # a heartbeat is due, and the client does not read
    client.resume()
    assert (await client.next()).data == "1"
    assert (await client.next()).is_comment, "that one"
    for _ in range(3):
        await clock.advance(10)
        assert (await client.next(0)).is_comment
    await client.close()


async def test_heartbeats_are_spread(clock: Clock) -> None:
    hub = clock.hub(heartbeat=100)
    clients = [await beating(hub) for _ in range(40)]
    hub.broadcast(1)
    for client in clients:
        await client.next()
    done = []
    for _ in range(27):
        done.append(hub.stats()["heartbeats"])
        await clock.advance(1 if done[1:] else 74.9)
    assert done[1] == 0, "none before three quarters"
    assert hub.stats()["heartbeats"] == 40, "and all after the whole"
    assert len(set(done)) > 10
    for client in clients:
        await client.close()


async def test_a_quiet_topics_id_moves_on(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10, history=5)
    client = await beating(hub, "quiet")
    for n in range(100):
        newest = await hub.publish("busy", n)
    await clock.advance(10)
    beat = await client.next(0)
    assert (beat.event, beat.data, beat.id) == ("stream-cursor", "", newest)
    await clock.advance(10)
    assert (await client.next(0)).is_comment, "nothing new since"
    first = await hub.publish("quiet", 1)
    assert (await client.next()).id == first
    await client.close()


async def test_the_cursor_keeps_a_client_inside_history(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10, history_total_bytes=20_000)
    quiet, other = await beating(hub, "quiet"), await beating(hub, "quiet")
    start = quiet.last_event_id
    hub.publish("quiet", "to be evicted")
    for client in (quiet, other):
        await client.next()
    after = quiet.last_event_id
    for n in range(1000):
        hub.publish("busy", n)
    await clock.advance(10)
    assert (await quiet.next(0)).event == "stream-cursor"
    hub.publish("quiet", "missed")
    await quiet.reconnect()
    events = await quiet.take(3)
    assert [event.event for event in events] == [":", "stream-open", "message"]
    assert events[2].json() == "missed"
    await other.reconnect(start)
    assert [event.event for event in await other.take(3)] == [":", "stream-open", "stream-reset"]
    assert after != quiet.last_event_id
    for client in (quiet, other):
        await client.close()


async def test_the_cursor_never_skips_what_is_still_to_come(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10)
    client = await beating(hub, "t")
    client.pause()
    hub.publish("t", 1)
    await asyncio.sleep(0)
    hub.publish("t", 2)
    hub.publish("other", 3)
    await clock.advance(25)
    client.resume()
    assert [event.data for event in await client.take(2)] == ["1", "2"]
    await clock.advance(10)
    assert (await client.next(0)).event == "stream-cursor"
    await client.close()


async def test_heartbeats_can_be_switched_off(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    client = await beating(hub)
    await clock.advance(10_000)
    await client.silent()
    await client.close()


async def test_a_client_with_a_backlog_gets_none(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10, stall_timeout=1000)
    client = await beating(hub)
    client.pause()
    for n in range(10):
        hub.publish("t", n)
        await clock.advance(10)
    client.resume()
    events = await client.take(10)
    assert [event.data for event in events] == [str(n) for n in range(10)]
    await client.silent()
    await client.close()


async def test_heartbeats_wait_for_the_snapshot_and_then_speak_the_truth(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10, stall_timeout=1000)
    release = asyncio.Event()

    async def slow(subscriber: object) -> list[str]:
        await release.wait()
        return ["snapshot"]

    client = await connect(hub.endpoint("t", initial=slow), "/", control=True)
    assert (await client.next()).event == "stream-open"
    hub.publish("other", 1)
    await clock.advance(100)
    assert client.last_event_id == ""
    release.set()
    assert (await client.next()).json() == "snapshot"
    await client.close()


async def test_a_client_that_takes_nothing_is_cut(clock: Clock) -> None:
    hub = clock.hub(stall_timeout=30, heartbeat=None)
    reasons: list[str] = []
    hub.on_disconnect(lambda subscription, reason: reasons.append(reason))
    stuck, healthy = await beating(hub), await beating(hub)
    stuck.pause()
    hub.publish("t", 1)
    await clock.advance(0.1)
    hub.publish("t", 2)
    await clock.advance(29)
    assert hub.count() == 2
    await clock.advance(10)
    assert (hub.count(), reasons, hub.stats()["stalled"]) == (1, ["stalled"], 1)
    assert [event.data for event in await healthy.take(2)] == ["1", "2"]
    await stuck.close()
    await healthy.close()


async def test_a_client_that_has_nothing_to_take_is_not_stalled(clock: Clock) -> None:
    hub = clock.hub(stall_timeout=30, heartbeat=None)
    client = await beating(hub)
    await clock.advance(10_000)
    hub.publish("t", 1)
    assert (await client.next()).data == "1"
    await client.close()


async def test_an_idle_client_that_stops_reading_is_found_by_its_heartbeats(clock: Clock) -> None:
    hub = clock.hub(stall_timeout=30, heartbeat=10)
    client = await beating(hub)
    client.pause()
    await clock.advance(60)
    assert hub.count() == 0
    assert hub.stats()["stalled"] == 1
    await client.close()


async def test_max_age_ends_a_stream_and_the_client_comes_back(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    async with connect(hub.endpoint("t", max_age=60), "/") as client:
        hub.publish("t", 1)
        await clock.advance(59)
        assert (await client.next()).data == "1"
        hub.publish("t", 2)
        await clock.advance(1)
        assert [event.data for event in await client.rest()] == ["2"]
        hub.publish("t", 3)
        await client.reconnect()
        assert (await client.next()).data == "3"
        assert not client.ended


async def test_expires_ends_a_stream_and_the_next_request_meets_a_401(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    reasons: list[EndReason] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    async with connect(hub.endpoint("t", expires=datetime.now(UTC) + timedelta(seconds=60)), "/") as client:
        await clock.advance(50)
        hub.publish("t", 1)
        assert (await client.next()).data == "1"
        await clock.advance(10)
        assert await client.rest() == []
        assert [(reason, reason.kind) for reason in reasons] == [("expired", EndKind.EXPIRED)]
        await client.reconnect()
        assert client.status_code == 401
        assert await client.read() == b""


async def test_heartbeats_come_on_the_machines_clock_too() -> None:
    hub = Hub(heartbeat=0.1)
    began = asyncio.get_running_loop().time()
    client = await beating(hub)
    for _ in range(3):
        assert (await client.next(10)).is_comment
    assert 0.2 <= asyncio.get_running_loop().time() - began < 10  # by default, 15 seconds each
    await client.close()


@pytest.mark.parametrize("seconds", [1e-9, 0.5, 86_400 * 400])
async def test_any_step_of_the_clock_is_taken(clock: Clock, seconds: float) -> None:
    hub = clock.hub(heartbeat=86_400 * 30, stall_timeout=86_400 * 30)
    client = await beating(hub)
    await clock.advance(seconds)
    hub.publish("t", 1)
    while (await client.next()).data != "1":
        pass
    await client.close()


@pytest.mark.parametrize("loop_type", LOOP_TYPES)
def test_timers_of_a_real_loop_are_not_set_again_and_again(loop_type: Any) -> None:
    class Counting(loop_type):  # type: ignore[misc]
        timers = 0

        def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            self.timers += 1
            return super().call_later(*args, **kwargs)

    loop = Counting()

    async def wait() -> None:
        hub = Hub(heartbeat=0.2)
        streams = [hub.subscribe("t") for _ in range(20)]
        for stream in streams:
            await anext(stream)
        before = loop.timers
        for _ in range(5):
            await asyncio.gather(*map(anext, streams))
        # At most one a heartbeat. A timer that fires early is set again for the rest, many times in a row.
        assert loop.timers - before <= hub.stats()["heartbeats"]
        await hub.aclose()

    try:
        loop.run_until_complete(wait())
    finally:
        loop.close()
