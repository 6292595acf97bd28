"""The storm of runs: many runs, and watchers that come, leave, return with their id and stop runs, at random.

No watcher misses an event, receives one twice, or hangs; each that stays to the end learns the last state.
None receives, or is reset by, what is broadcast to others all the time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from sse_hub import Hub, Run
from sse_hub.testing import connect

SEED = 20261129
RUNS, WATCHERS, EVENTS = 50, 200, 40
PATIENCE = 60


class Failed(Exception):
    """What some of the sources raise."""


async def source(rng: random.Random) -> AsyncIterator[int]:
    fails_at = rng.randrange(EVENTS) if rng.random() < 0.2 else None
    for number in range(EVENTS):
        if number == fails_at:
            raise Failed
        if rng.random() < 0.7:
            await asyncio.sleep(rng.random() * 0.01)
        yield number


async def watch(hub: Hub, rng: random.Random, runs: list[Run]) -> tuple[int, int]:
    """One client, which changes its mind; returns how often it came back, and how many ends it received."""
    returned = ends = 0
    for _ in range(4):
        run = rng.choice(runs)
        last, seen = None, []
        while True:
            leaves_after = rng.randrange(1, 2 * EVENTS)
            async with connect(hub.follow(run.id), "/", last_event_id=last, control=True) as client:
                async for event in client:
                    assert event.event in ("message", "stream-open", "stream-end"), event
                    last = event.id or last
                    if event.event == "message":
                        seen.append(event.json())
                    elif event.event == "stream-end":
                        assert event.json() == {"state": run.state.value}
                        ends += 1
                        break
                    if len(seen) >= leaves_after:
                        break
                    if rng.random() < 0.002:
                        await run.stop()
                else:
                    raise AssertionError("a stream ended without a word")
            assert seen == list(range(len(seen))), "nothing is missing, and nothing comes twice"
            if event.event == "stream-end":
                assert run.state != "done" or len(seen) == EVENTS
                break
            returned += 1
            if rng.random() < 0.2:
                break  # it never comes back
    return returned, ends


async def disturb(hub: Hub) -> None:
    while True:
        hub.broadcast("to all", event="notice")
        await asyncio.sleep(0.005)


async def test_no_watcher_misses_doubles_or_hangs() -> None:
    rng = random.Random(SEED)
    async with Hub(history=4, history_total_bytes=1000) as hub:
        runs = [await hub.run(f"run {n}", source, random.Random(rng.random())) for n in range(RUNS)]
        disturbing = asyncio.create_task(disturb(hub))
        watchers = [watch(hub, random.Random(rng.random()), runs) for _ in range(WATCHERS)]
        async with asyncio.timeout(PATIENCE):
            told = await asyncio.gather(*watchers)
            states = [await run.wait() for run in runs]
        disturbing.cancel()
        assert hub.count() == 0
        assert set(states) == {"done", "failed", "stopped"}, "everything has happened"
        assert sum(returned for returned, _ in told) > 50
        assert sum(ends for _, ends in told) > 300
