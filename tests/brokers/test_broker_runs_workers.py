"""Runs over a broker: one process drives a run, every process shows it, and its death is noticed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from redis_server import RedisServer
from redis_workers import client_of
from servers import IMPORTS, ServerProcess, run, staying, uvicorn
from sse_hub import Hub, RunState
from sse_hub.testing import connect
from stores import Store
from waiting import PATIENCE, promised, until
from wire import Stream, of_the_run

COUNT = 500
PROCESSES = 8


class Worker:
    """One process of the app."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.http = client_of(server.port)
        self.pid: int = self.here()["pid"]

    def here(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/here").json()
        return found

    def start(self, name: str, **query: Any) -> Stream:
        """A watcher of a run that has begun."""
        path = str(httpx.URL(f"/runs/{name}", params=query))
        stream = Stream(self.server.port, path, method="POST")
        stream.opened()
        return stream

    def watch(self, name: str, last_event_id: str = "") -> Stream:
        return Stream(self.server.port, f"/runs/{name}", last_event_id=last_event_id)

    def status(self, name: str, last_event_id: str = "") -> int:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        return self.http.get(f"/runs/{name}", headers=headers).status_code

    def say(self, name: str, count: int) -> None:
        self.http.put(f"/runs/{name}", params={"count": count}).raise_for_status()

    def stop(self, name: str) -> bool:
        stopped: bool = self.http.delete(f"/runs/{name}").json()
        return stopped


@pytest.fixture
def workers(store: Store) -> Iterator[list[Worker]]:
    """Two processes: one streams portably, one hands its connections off."""
    with ExitStack() as stack:
        pair = []
        for way in (staying, lambda command: command):
            command = uvicorn("runs_app:app", "--no-access-log")
            command.env |= {"SSE_HUB_URL": store.url}
            pair.append(Worker(stack.enter_context(run(way(command)))))
            stack.callback(pair[-1].http.close)
        yield pair


def told(stream: Stream) -> list[Any]:
    return [event.json() for event in stream.rest()]


def test_a_run_is_the_same_at_every_worker(workers: list[Worker]) -> None:
    a, b = workers
    a.say("r", 3)
    with a.start("r") as first, b.watch("r") as second, b.start("r") as third:
        for stream in (first, second, third):
            assert stream.take(3) == ["r 0", "r 1", "r 2"]
        seen = second.last_event_id
        a.say("r", 10)
        rest = [*(f"r {n}" for n in range(3, 10)), {"state": "done"}]
        for stream in (first, second, third):
            assert told(stream) == rest
            assert stream.ended
    with a.watch("r", seen) as back, b.watch("r") as late:
        assert told(back) == rest
        assert told(late) == ["r 0", "r 1", "r 2", *rest]
    whole = of_the_run(late.body)
    assert [of_the_run(stream.body) for stream in (first, second, third)] == [whole] * 3
    assert whole.endswith(b"\n\n" + of_the_run(back.body))
    for worker in workers:
        assert worker.status("r", first.last_event_id) == 204
        assert worker.status("unknown") == 204
    assert (a.here()["calls"], b.here()["calls"]) == (["r"], [])


@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_any_worker_stops_it_within_a_second(workers: list[Worker]) -> None:
    a, b = workers
    a.say("r", 1)
    with a.start("r") as first, b.watch("r") as second:
        for stream in (first, second):
            assert stream.take(1) == ["r 0"]
        began = time.monotonic()
        assert b.stop("r") is True
        for stream in (first, second):
            assert told(stream) == [{"state": "stopped"}]
        assert time.monotonic() - began < promised(1)
    a.server.wait_for("finally of r")
    assert (a.stop("r"), b.stop("r"), b.stop("unknown")) == (False, False, False)


def test_every_watcher_learns_of_the_death_of_its_process_within_ten_seconds(workers: list[Worker]) -> None:
    a, b = workers
    a.say("r", 2)
    with a.start("r") as first, b.watch("r") as second:
        assert first.take(2) == second.take(2) == ["r 0", "r 1"]
        began = time.monotonic()
        os.kill(a.pid, signal.SIGKILL)
        assert told(second) == [{"state": "lost"}]
        assert second.ended
        assert time.monotonic() - began < promised(10)
        with b.watch("r", first.last_event_id) as back:
            assert told(back) == [{"state": "lost"}]
    assert b.status("r", second.last_event_id) == 204
    b.server.wait_for(r"run \"r\" is lost")
    assert b.here()["runs"]["lost"] == 1
    with b.start("r") as again:
        assert told(again)[-1] == {"state": "lost"}, "it is given back while it is kept"


@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_a_server_that_stops_stops_its_runs(workers: list[Worker]) -> None:
    a, b = workers
    a.say("r", 1)
    with a.start("r") as first, b.watch("r") as second:
        assert first.take(1) == second.take(1) == ["r 0"]
        a.server.terminate()
        for stream in (first, second):
            assert told(stream) == [{"state": "stopped"}]
    a.server.wait()
    assert "finally of r" in a.server.output


async def test_what_starts_later_follows_a_run_from_its_beginning(store: Store) -> None:
    go_on = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await go_on.wait()
        yield 2

    async with Hub(store.url) as hub, Hub(store.url) as other:
        first = await hub.run("r", source)
        joined = await other.run("r", source)
        assert (joined.id, joined.state) == ("r", "running")
        async with Hub(store.url) as later, connect(later.follow("r"), "/", control=True) as client:
            opening = [await client.next(), await client.next()]
            assert [event.data for event in opening] == ["", "1"]
            go_on.set()
            assert [event.data async for event in client] == ["2", '{"state":"done"}']
        assert await joined.wait() is await first.wait() is RunState.DONE
        assert await joined.stop() is False


async def test_idle_counts_the_watchers_of_every_process(store: Store) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(PATIENCE)

    async with Hub(store.url) as hub, Hub(store.url) as other:
        watcher = other.subscribe("r")
        async with asyncio.timeout(PATIENCE):
            while not (await hub.presence("r")).ids:  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0.01)
        run = await hub.run("r", source, idle=0.5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.wait(), 1.5)
        watcher.close()
        assert await asyncio.wait_for(run.wait(), PATIENCE) is RunState.STOPPED


def leases(store: Store) -> list[str]:
    """What is held of the leases."""
    if isinstance(store, RedisServer):
        return [str(key) for key in store.admin.keys("*:lease:*")]
    lines = (store.log() / "life").read_text().splitlines()
    return [line for line in lines if line.startswith("lease ")]


def test_one_of_many_that_start_it_at_once_drives_it(store: Store) -> None:
    env = {**os.environ, "PYTHONPATH": IMPORTS, "SSE_HUB_URL": store.url}
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "runs_app", str(COUNT)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = []
        for racer in racers:
            assert racer.stdout is not None
            said = json.loads(racer.stdout.readline())
            assert said["states"] == ["done"] * COUNT, "each saw every run to its end"
            won.append(said["won"])
        assert sorted(itertools.chain(*won)) == sorted(f"race {n}" for n in range(COUNT)), (
            "one winner of each"
        )
        assert sum(map(bool, won)) > 1, "they raced"
        for racer in racers:
            racer.communicate("end\n", timeout=PATIENCE)
            assert racer.returncode == 0
    finally:
        for racer in racers:
            racer.kill()
            with racer:
                pass
    until(lambda: not leases(store))
