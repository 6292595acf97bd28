"""Clients that read slowly or not at all, through real sockets and on both paths."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from sse_hub import Hub
from waiting import promised, until
from wire import WAYS, Site, Stream

SITES = tuple(WAYS)


def stalled(site: Site, hub: Hub, **options: Any) -> Stream:
    return site.stream(hub, client={"receive_buffer": 4096}, **options)


def flood(hub: Hub, healthy: Stream) -> int:
    """Publish numbered events, each read by ``healthy``, until another lost some; the last one's number."""
    for n in range(2000):
        hub.publish("t", {"n": n, "fill": "x" * 20_000})
        assert healthy.event().json()["n"] == n
        if hub.stats()["dropped"] >= 5:
            return n
    raise AssertionError("the client takes everything")


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_the_loss_of_a_slow_client_is_announced_exactly(site: Site, overflow: Any) -> None:
    hub = site.hub(capacity=8, history=0)
    with stalled(site, hub, overflow=overflow) as slow, site.stream(hub) as healthy:
        last = flood(hub, healthy)
        numbers, lost = [], 0
        # A loss is announced in its place: the numbers around it say how large it must be.
        while not lost or (overflow == "drop_oldest" and numbers[-1] != last):
            event = slow.next()
            if event.event == "stream-lagged":
                lost += event.json()["dropped"]
            elif event.event == "message":
                number, before = event.json()["n"], numbers[-1] if numbers else -1
                assert number - before - 1 == lost - (before + 1 - len(numbers))
                numbers.append(number)
        hub.publish("t", {"n": last + 1})
        assert slow.take(1) == [{"n": last + 1}]
        assert lost == last + 1 - len(numbers) == hub.stats()["dropped"]
        assert hub.count() == 2


def test_a_slow_client_is_cut_and_comes_back_without_loss(site: Site) -> None:
    hub = site.hub(capacity=8, history=3000, history_bytes=2**30)
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    with stalled(site, hub) as slow:
        for n in range(2000):
            hub.publish("t", {"n": n, "fill": "x" * 20_000})
            time.sleep(0.001)
            if hub.count() == 0:
                break
        until(lambda: reasons == ["overflow"])
        events = slow.rest()
        assert slow.reset, "a write is unfinished: there is no proper end"
        got = [event.json()["n"] for event in events]
    with site.stream(hub, client={"last_event_id": slow.last_event_id}) as back:
        got += [data["n"] for data in back.take(n + 1 - len(got))]
    assert got == [*range(n + 1)]


def test_a_client_that_takes_nothing_is_freed_by_the_stall_timeout(site: Site) -> None:
    hub = site.hub(stall_timeout=0.3, capacity=100_000, capacity_bytes=2**30)
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    with stalled(site, hub):
        for _ in range(300):
            hub.publish("t", "x" * 20_000)
        until(lambda: reasons == ["stalled"])
        assert (hub.count(), hub.stats()["stalled"]) == (0, 1)


def test_a_burst_cuts_nobody_who_reads(site: Site) -> None:
    hub = site.hub(capacity=16)
    streams = [site.stream(hub) for _ in range(8)]
    for n in range(5000):
        hub.publish("t", n)
    for stream in streams:
        assert stream.take(5000) == [*range(5000)]
        stream.close()
    assert hub.stats()["overflowed"] == 0


def test_a_stalled_client_does_not_keep_a_hub_from_closing(site: Site) -> None:
    hub = site.hub(capacity=100_000, capacity_bytes=2**30)
    with stalled(site, hub) as slow, site.stream(hub) as reading:
        for _ in range(200):
            hub.publish("t", "x" * 20_000)
        assert len(reading.take(199)) == 199
        reader = threading.Thread(target=reading.rest)
        reader.start()
        began = time.monotonic()
        asyncio.run(hub.aclose(1.0))
        assert time.monotonic() - began < promised(2)
        reader.join()
        assert reading.ended
        assert hub.count() == 0
        slow.close()
