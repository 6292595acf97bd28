"""Compressed streams, read by others' clients that join at random moments: curl, httpx, fetch, eventsource.

Each has an event as soon as it was published, and ends without an error where the stream ends.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeAlias

import httpx
import pytest
from live import serve
from run_readers import HERE, NODE
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.routing import Route
from waiting import PATIENCE, until

EVENTS = 240
ROW = "as many bytes as the row of a table has, more or less"

Read: TypeAlias = Callable[[list[int]], None]
"""Appends the number of each event, until the stream ends."""


def follow(lines: Iterable[str], seen: list[int]) -> None:
    """The lines are those of the stream, or the numbers that a program printed."""
    for line in lines:
        if line.startswith('data: {"n"'):
            seen.append(json.loads(line.removeprefix("data: "))["n"])
        elif line.strip().isdigit():
            seen.append(int(line))


@contextmanager
def program(*words: str) -> Iterator[Read]:
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read(seen: list[int]) -> None:
            follow(lines, seen)
            assert process.wait(PATIENCE) == 0, process.stderr and process.stderr.read()

        try:
            yield read
        finally:
            process.kill()


@contextmanager
def curl(url: str) -> Iterator[Read]:
    with program("curl", "--silent", "--show-error", "--no-buffer", "--compressed", url) as read:
        yield read


@contextmanager
def node(client: str, url: str) -> Iterator[Read]:
    script = shutil.copy(HERE / "compressed.mjs", NODE)  # modules are looked for beside it
    with program("node", str(script), client, url) as read:
        yield read


@contextmanager
def with_httpx(url: str) -> Iterator[Read]:
    def read(seen: list[int]) -> None:
        with (
            httpx.Client(timeout=PATIENCE, trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            assert response.headers["content-encoding"] == "gzip"
            follow(response.iter_lines(), seen)

    yield read


CLIENTS = [curl, partial(node, "fetch"), partial(node, "eventsource"), with_httpx, curl, with_httpx]


@pytest.mark.parametrize("handoff", [False, True])
def test_each_client_has_each_event_when_it_was_published(handoff: bool) -> None:
    hub = Hub(history=0, handoff=handoff)
    app = Starlette(routes=[Route("/", hub.endpoint("t", compress=True))])
    chance = random.Random(EVENTS)
    clients = chance.sample(CLIENTS, len(CLIENTS))
    joins = sorted(chance.sample(range(EVENTS - 70), len(clients)))
    failures: list[BaseException] = []

    def run(read: Read, seen: list[int]) -> None:
        try:
            read(seen)
        except BaseException as error:
            failures.append(error)

    with serve(app) as server, ExitStack() as stack:
        readers: list[tuple[list[int], threading.Thread]] = []

        def have(n: int) -> bool:
            return bool(failures) or all(seen[-1:] == [n] for seen, _ in readers)

        for n in range(EVENTS):
            if n in joins:
                read = stack.enter_context(clients[len(readers)](server.url))
                seen: list[int] = []
                thread = threading.Thread(target=run, args=(read, seen))
                thread.start()
                readers.append((seen, thread))
                until(lambda: hub.count() == len(readers))
            hub.publish("t", {"n": n, "row": ROW, "value": chance.random()})
            until(partial(have, n))
        hub.end("t")
        for began, (seen, thread) in zip(joins, readers, strict=True):
            thread.join(PATIENCE)
            assert seen == [*range(began, EVENTS)]
        assert failures == []
        stats = hub.stats()
        assert stats["compressed_bytes"] < 0.6 * stats["uncompressed_bytes"]
