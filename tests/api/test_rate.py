"""The rate of a stream, on a clock the test drives."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from sse_hub import Hub, Subscription
from sse_hub.testing import Clock, connect


def data(chunk: bytes) -> list[Any]:
    """The data of the events in what goes out at once."""
    lines = (line.removeprefix("data: ") for line in chunk.decode().splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line]


class Writes:
    """What a stream gives, write by write."""

    def __init__(self, clock: Clock, stream: Subscription) -> None:
        self.clock, self.stream, self.writes = clock, stream, list[list[Any]]()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for chunk in self.stream:
            if written := data(chunk):
                self.writes.append(written)

    async def after(self, seconds: float) -> list[list[Any]]:
        """What was written until then."""
        await self.clock.advance(seconds)
        written, self.writes = self.writes, []
        return written


async def begun(clock: Clock, hub: Hub, **options: Any) -> Writes:
    writes = Writes(clock, hub.subscribe("t", **options))
    assert await writes.after(0) == []
    return writes


async def test_what_comes_within_an_interval_goes_out_together(clock: Clock) -> None:
    hub = clock.hub()
    client = await begun(clock, hub, rate=5)
    hub.publish("t", 0)
    assert await client.after(0) == [[0]], "the first at once"
    for n in range(1, 41):
        hub.publish("t", n)
        await clock.advance(0.05)
    written = await client.after(0.2)
    assert [len(part) for part in written] == [4] * 10
    assert [*itertools.chain(*written)] == list(range(1, 41))
    hub.publish("t", "after silence")
    assert await client.after(0) == [["after silence"]]


async def test_with_keys_it_is_so_many_tables_a_second(clock: Clock) -> None:
    hub = clock.hub()
    client = await begun(clock, hub, rate=5)
    hub.publish("t", "begun")
    await client.after(0)
    for n in range(100):
        hub.publish("t", [n % 3, n], key=str(n % 3))
    assert await client.after(1) == [[[1, 97], [2, 98], [0, 99]]]
    assert hub.stats()["superseded"] == 97


async def test_what_is_sent_to_one_client_is_not_held(clock: Clock) -> None:
    hub = clock.hub()
    client = await begun(clock, hub, rate=1)
    hub.publish("t", 1)
    assert await client.after(0) == [[1]]
    hub.publish("t", 2)
    assert await client.after(0.1) == []
    client.stream.send("mine")
    assert await client.after(0) == [[2, "mine"]], "with what was published before it"


async def test_the_end_is_not_held(clock: Clock) -> None:
    hub = clock.hub()
    client = await begun(clock, hub, rate=1)
    hub.publish("t", 1)
    hub.publish("t", 2)
    hub.publish("t", 3)
    assert await client.after(0) == [[1, 2, 3]]
    hub.publish("t", 4)
    hub.end("t")
    assert await client.after(0) == [[4, {"state": "ended"}]]
    await client.task
    assert client.stream.closed == "ended"


async def test_a_client_that_resumes_loses_nothing_that_was_held(clock: Clock) -> None:
    hub = clock.hub()
    async with connect(hub.endpoint("t", rate=1), "/") as client:
        for n in range(3):
            hub.publish("t", n)
            await clock.advance(0)
        assert (await client.next()).json() == 0
        await client.silent()
        await client.reconnect()
        assert [event.json() for event in await client.take(2)] == [1, 2]


async def test_the_hubs_rate_is_for_every_stream_without_its_own(clock: Clock) -> None:
    hub = clock.hub(rate=2)
    slow, fast = await begun(clock, hub), await begun(clock, hub, rate=20)
    for n in range(10):
        hub.publish("t", n)
        await clock.advance(0.1)
    assert len(await slow.after(0.5)) == 3
    assert len(await fast.after(0)) == 10


async def test_a_run_goes_out_as_it_comes(clock: Clock) -> None:
    hub = clock.hub(rate=0.1)
    release = asyncio.Event()

    async def answer() -> Any:
        yield 1
        yield 2
        await release.wait()

    await hub.run("answer", answer)
    async with connect(lambda *it: hub.follow("answer")(*it), "/") as client:
        assert [event.json() for event in await client.take(2)] == [1, 2]
    release.set()


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), 100.5, 1e-9, 10**400, -(10**400)])
async def test_a_rate_out_of_its_range_is_refused(rate: float) -> None:
    hub = Hub()
    for attempt in (hub.subscribe, hub.response, hub.endpoint):
        with pytest.raises(ValueError, match=r"rate must be a number of writes a second from 0\.001 to 100"):
            attempt("t", rate=rate)
    with pytest.raises(ValueError, match="rate must be"):
        Hub(rate=rate)
    assert hub.count() == 0


@pytest.mark.parametrize("rate", [True, False, "5", [5]])
async def test_a_rate_of_the_wrong_type_is_refused(rate: Any) -> None:
    for attempt in (Hub().subscribe, Hub().response, Hub().endpoint):
        with pytest.raises(TypeError, match="rate"):
            attempt("t", rate=rate)
    with pytest.raises(TypeError, match="rate"):
        Hub(rate=rate)
