"""The storm over files: writers that are killed in the middle of whatever they do, while segments come and
go.

Two followers are compared with each other and with what was acknowledged. ``STORM_KILLS=500`` is the full
storm.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from file_server import FileServer
from file_server import number as of_id
from file_writer import fork_server, small_hub, text, write
from sse_hub._testing.event_parser import EventParser
from waiting import PATIENCE, until_async

WRITERS = 4
KILLS = int(os.environ.get("STORM_KILLS", "40"))
EVENTS = 20 * KILLS


class Follower:
    """A hub in this process, and all that a client of it gets."""

    def __init__(self, url: str) -> None:
        self.hub = small_hub(url, capacity=1 << 20, capacity_bytes=1 << 30)
        self.seen: list[tuple[str, str]] = []
        self.told: list[str] = []
        self.of: Counter[int] = Counter()  # how many events it has of each writer

    async def follow(self) -> AsyncIterator[set[int]]:
        """Read on and on; the writers whose events have come each time."""
        parser = EventParser("")
        async for chunk in self.hub.subscribe("t"):
            parser.feed(chunk)
            writers = set()
            while parser.events:
                event = parser.events.popleft()
                if event.is_comment:
                    continue
                if event.event != "message":
                    self.told.append(event.event)
                    continue
                data = json.loads(event.data)
                self.seen.append((event.id, data))
                if data.startswith("w"):
                    writer = int(data[1:].partition("-")[0])
                    self.of[writer] += 1
                    writers.add(writer)
            yield writers


class Storm:
    """Writers, and two followers for whose progress they wait."""

    def __init__(self, files: FileServer, records: Path) -> None:
        self.files = files
        self.directory = records
        self.context = fork_server()
        self.followers = [Follower(files.url) for _ in range(2)]
        # How many events of each writer all followers have.
        self.seen = self.context.RawArray("Q", KILLS + WRITERS)
        self.writers: list[multiprocessing.process.BaseProcess] = []

    async def follow(self, follower: Follower) -> None:
        async for writers in follower.follow():
            for writer in writers:
                self.seen[writer] = min(each.of[writer] for each in self.followers)

    async def publish(self, data: str) -> None:
        async with small_hub(self.files.url) as hub:
            await hub.publish("t", data)

    def record(self, writer: int) -> Path:
        """What a writer was acknowledged."""
        return self.directory / f"{writer}"

    def start(self) -> int:
        writer = len(self.writers)
        args = (self.files.url, f"w{writer}", str(self.record(writer)), self.seen, writer)
        process = self.context.Process(target=write, args=args)
        process.start()
        self.writers.append(process)
        return writer

    async def kill(self, writer: int, after: float) -> None:
        """Kill a writer somewhere in its work; until the followers have what it was acknowledged."""
        await until_async(self.record(writer).exists, 2 * PATIENCE)  # it has begun
        await asyncio.sleep(after)
        self.writers[writer].kill()
        await asyncio.to_thread(self.writers[writer].join)
        acknowledged = self.record(writer).read_text().count("\n")
        await until_async(lambda: self.seen[writer] >= acknowledged, 2 * PATIENCE)

    async def rage(self) -> None:
        dice = random.Random(20260101)
        places = [self.start() for _ in range(WRITERS)]
        for _ in range(KILLS):
            place = dice.randrange(WRITERS)
            await self.kill(places[place], dice.uniform(0, 0.1))
            places[place] = self.start()
        # A busy machine takes longer. A writer notes its acknowledgements seven at a time.
        enough = EVENTS + 7 * len(self.writers)
        await until_async(lambda: sum(self.seen) > enough, 4 * PATIENCE)

    def end(self) -> None:
        """Kill all writers: they would go on for ever."""
        for process in self.writers:
            process.kill()
        for process in self.writers:
            process.join()


@pytest.mark.timeout(900)
async def test_writers_that_are_killed_lose_nothing_that_was_acknowledged(
    files: FileServer, tmp_path: Path
) -> None:
    storm = Storm(files, tmp_path)
    tasks = [asyncio.create_task(storm.follow(follower)) for follower in storm.followers]
    try:
        await storm.publish("first")
        for follower in storm.followers:
            await follower.hub.publish("t", "joined")
        try:
            await storm.rage()
        finally:
            storm.end()
        await storm.publish("end")
        for follower in storm.followers:
            await until_async(lambda it=follower: it.seen[-1][1] == "end", 2 * PATIENCE)
    finally:
        for task in tasks:
            task.cancel()
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        for follower in storm.followers:
            await follower.hub.aclose()
    assert all(isinstance(failure, asyncio.CancelledError) for failure in failures), failures
    judge(storm)


def judge(storm: Storm) -> None:
    """The records against each other, and against the log."""
    files = storm.files
    one, two = (follower.seen for follower in storm.followers)
    begin = next(at for at, (_, data) in enumerate(one) if data == "joined")
    begin_two = next(at for at, (_, data) in enumerate(two) if (_, data) == one[begin])
    assert one[begin:] == two[begin_two:], "both see the same, in one order"
    assert [follower.told.count("stream-reset") for follower in storm.followers] == [0, 0]
    ids = [id for id, _ in one]
    assert len({*ids}) == len(ids), "no id twice"
    assert ids == sorted(ids, key=lambda id: tuple(map(int, id.split("-"))))
    seen = dict(one)
    acknowledged = 0
    for record in storm.directory.iterdir():
        for line in record.read_text().splitlines():
            id, data = line.split(" ", 1)
            acknowledged += 1
            assert seen.get(id) == data, f"{id} was acknowledged"
    newest: dict[str, int] = {}
    for _, data in one:
        if data.startswith("w"):
            writer, number, _ = data.split("-")
            assert data == text(writer, int(number)), "nothing comes that was not written"
            assert int(number) > newest.get(writer, -1), "each writer's in its order, once"
            newest[writer] = int(number)
    # What was published before the follower came is trimmed only if the storm takes longer than that is kept.
    tail = [id for id in files.ids() if of_id(id) >= of_id(ids[0])]
    assert ids[-len(tail) :] == tail, "the log has the newest"
    size = max(path.stat().st_size for path in files.segments())
    told = {"kills": KILLS, "acknowledged": acknowledged, "seen": len(one), "kept": len(tail)}
    print(json.dumps(told | {"largest segment": size}))
    assert acknowledged > EVENTS
    assert len(files.segments()) > 1
