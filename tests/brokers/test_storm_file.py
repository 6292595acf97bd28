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
from pathlib import Path

import pytest
from file_server import FileServer, number
from file_writer import HISTORY, MIN_AGE, fork_server, write
from sse_hub import FileBroker, Hub
from sse_hub._testing.event_parser import EventParser
from waiting import PATIENCE, until_async

WRITERS = 4
KILLS = int(os.environ.get("STORM_KILLS", "40"))


class Follower:
    """A hub in this process, and all that a client of it gets."""

    def __init__(self, url: str) -> None:
        self.hub = Hub(
            FileBroker(url, min_age=MIN_AGE), history=HISTORY, capacity=1 << 20, capacity_bytes=1 << 30
        )
        self.seen: list[tuple[str, str]] = []
        self.told: list[str] = []

    async def follow(self) -> None:
        parser = EventParser("")
        async for chunk in self.hub.subscribe("t"):
            parser.feed(chunk)
            while parser.events:
                event = parser.events.popleft()
                if event.is_comment:
                    continue
                if event.event == "message":
                    self.seen.append((event.id, json.loads(event.data)))
                else:
                    self.told.append(event.event)

    async def until(self, data: str) -> None:
        async with asyncio.timeout(2 * PATIENCE):
            await until_async(lambda: bool(self.seen) and self.seen[-1][1] == data)


@pytest.mark.timeout(900)
async def test_writers_that_are_killed_lose_nothing_that_was_acknowledged(
    files: FileServer, tmp_path: Path
) -> None:
    dice = random.Random(20260101)
    context = fork_server()
    followers = [Follower(files.url), Follower(files.url)]
    tasks = [asyncio.create_task(follower.follow()) for follower in followers]
    async with Hub(files.url) as hub:
        await hub.publish("t", "first")
    for follower in followers:
        await follower.hub.publish("t", "joined")
    writers: dict[int, tuple[multiprocessing.process.BaseProcess, Path]] = {}
    records: list[Path] = []

    def start(place: int) -> None:
        record = tmp_path / f"{len(records)}"
        records.append(record)
        process = context.Process(target=write, args=(files.url, f"w{len(records)}", str(record)))
        process.start()
        writers[place] = (process, record)

    for place in range(WRITERS):
        start(place)
    for _ in range(KILLS):
        place = dice.randrange(WRITERS)
        process, record = writers[place]
        await until_async(record.exists)  # it has begun
        await asyncio.sleep(dice.uniform(0, 0.1))
        process.kill()
        await asyncio.to_thread(process.join)
        start(place)
    for process, _ in writers.values():
        process.kill()
        process.join()
    async with Hub(files.url) as hub:
        await hub.publish("t", "end")
    for follower in followers:
        await follower.until("end")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for follower in followers:
        await follower.hub.aclose()
    judge(followers, records, files)


def judge(followers: list[Follower], records: list[Path], files: FileServer) -> None:
    """The records against each other, and against the log."""
    one, two = (follower.seen for follower in followers)
    begin = next(at for at, (_, data) in enumerate(one) if data == "joined")
    begin_two = next(at for at, (_, data) in enumerate(two) if (_, data) == one[begin])
    assert one[begin:] == two[begin_two:], "both see the same, in one order"
    assert [follower.told.count("stream-reset") for follower in followers] == [0, 0]
    ids = [id for id, _ in one]
    assert len({*ids}) == len(ids), "no id twice"
    assert ids == sorted(ids, key=lambda id: tuple(map(int, id.split("-"))))
    seen = dict(one)
    acknowledged = 0
    for record in records:
        for line in record.read_text().splitlines() if record.exists() else []:
            id, data = line.split(" ", 1)
            acknowledged += 1
            assert seen.get(id) == data, f"{id} was acknowledged"
    assert len({data for _, data in one if data.startswith("w")}) == sum(
        data.startswith("w") for _, data in one
    ), "nothing was written twice"
    # What was published before the follower came is trimmed only if the storm takes longer than that is kept.
    tail = [id for id in files.ids() if number(id) >= number(ids[0])]
    assert ids[-len(tail) :] == tail, "the log has the newest"
    print(json.dumps({"kills": KILLS, "acknowledged": acknowledged, "seen": len(one), "kept": len(tail)}))
    assert acknowledged > 20 * KILLS
    assert len(files.segments()) > 1
