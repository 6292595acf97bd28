"""Runs whose watchers a reactor serves: what its thread owes to events that follow each other fast."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

import pytest
from fast_runs import FastRuns, ends
from reactor_threads import reactors, wake_ups
from sse_hub import Hub
from waiting import PATIENCE
from wire import Site

SITES = ("httptools", "h11")


def test_a_run_that_blocks_its_loop_holds_no_event_back(site: Site) -> None:
    received = threading.Event()
    waited: list[bool] = []

    async def block(hub: Hub, id: str) -> None:
        waited.append(received.wait(PATIENCE))

    runs = FastRuns(site, 100, block)
    with runs.watch() as stream:
        runs.begin.set()
        assert stream.take(100) == [*range(100)]
        received.set()
        stream.rest()
    assert waited == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="counts wake-ups in /proc")
def test_fast_runs_wake_the_thread_of_their_watchers_for_many_events_at_once(site: Site) -> None:
    others = reactors()
    count = 200
    runs = FastRuns(site, count, ends)
    with ExitStack() as stack:
        streams = [stack.enter_context(runs.watch(f"{number}")) for number in range(50)]
        (reactor,) = reactors() - others
        before = wake_ups(reactor)
        runs.begin.set()
        for stream in streams:
            assert stream.take(count) == [*range(count)]
        woken = wake_ups(reactor) - before
    print(f"{50 * count} events, {woken} wake-ups")
    assert woken < 50 * count / 40
