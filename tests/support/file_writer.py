"""Processes that publish to a log in files and are killed."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing.forkserver
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from sse_hub import BrokerError, FileBroker, Hub
from waiting import until

# A segment has an eighth of it, about 64 KB, and is deleted soon.
HISTORY = 2000
MIN_AGE = 0.0
# What a follower has yet to read is kept, however slow it is, while each of a few writers is ahead by this.
AHEAD = HISTORY // 8
# How many events a writer publishes at once.
BATCH = 7


def fork_server() -> Any:
    """The fork server of this process, with everything imported that its children need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["file_writer", "file_serving"])
    before = os.environ.get("PYTHONPATH")
    # It searches its imports as a new interpreter does, not as this process.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def small_hub(url: str, **options: Any) -> Hub:
    """A hub whose log has small segments, and deletes them soon."""
    return Hub(FileBroker(url, min_age=MIN_AGE), history=HISTORY, **options)


def text(name: str, number: int) -> str:
    """What a writer publishes under this number."""
    return f"{name}-{number}-{'x' * (number // BATCH * BATCH % 300)}"


def write(url: str, name: str, record: str, seen: Sequence[int] = (), place: int = 0) -> None:
    """Publish numbers until killed; what was acknowledged goes into the file ``record``.

    ``seen[place]`` is how many of its events all followers have. Without waiting for them it would outrun
    the followers of a loaded machine until what they have yet to read is deleted, which is a gap.
    """
    file = os.open(record, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    hub = small_hub(url)
    number = acknowledged = 0
    while True:
        if seen and acknowledged - seen[place] > AHEAD:
            while acknowledged - seen[place] > AHEAD // 2:  # then it writes many at once
                time.sleep(0.001)
        batch = [text(name, number + n) for n in range(BATCH)]
        published = [hub.publish("t", one) for one in batch]
        lines = []
        for one, data in zip(published, batch, strict=True):
            with suppress(BrokerError):  # one that was stopped had the lock for too long: not acknowledged
                lines.append(f"{one.result()} {data}\n")
        os.write(file, "".join(lines).encode())
        number += len(batch)
        acknowledged += len(lines)


def publish_once(url: str, data: str) -> None:
    """Publish one event, and end as a child of ``multiprocessing`` does."""
    Hub(url).publish("t", data)


def hold(url: str) -> None:
    """Subscribe and wait to be killed."""

    async def wait() -> None:
        hub = Hub(url)
        stream = hub.subscribe("t")
        async for _ in stream:
            pass

    asyncio.run(wait())


def starve(url: str, said: Connection) -> None:
    """Publish while only so many files may be opened; say each time what became of it, and of the next."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for spare in range(16):
        hub = Hub(FileBroker(url, timeout=0.3))
        held = []
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(held.pop())
        try:
            outcome = f"id {hub.publish('t', spare).result()}"
        except (BrokerError, OSError) as error:
            outcome = f"{type(error).__name__} {error}"
        for each in held:
            os.close(each)
        after = None
        while after is None:  # as long as the pause before the next attempt lasts
            with suppress(BrokerError, OSError):
                after = hub.publish("t", "after").result()
        hub.close()
        said.send((outcome, after))
    said.send(None)


def become(user: int, group: int) -> None:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)


async def seen(hub: Hub, count: int, then: Callable[[], Awaitable[Any]]) -> bytes:
    """Subscribe, act, and return what a client of the whole history has once it has so many events."""
    received = b""
    async with hub.subscribe("t", replay="all", control=False) as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await then()
        while received.count(b"data: ") < count:
            received += await waiting
            waiting = asyncio.ensure_future(anext(stream))
        waiting.cancel()
    return received


def share(url: str, user: int, group: int, count: int, said: Connection) -> None:
    """As this user, publish and follow until the events of both users are there."""
    become(user, group)
    with Hub(FileBroker(url, mode=0o660)) as hub:

        async def publish() -> None:
            for n in range(count):
                await hub.publish("t", f"{user} {n}")

        said.send(asyncio.run(seen(hub, 2 * count, publish)))


def poll(url: str, user: int, said: Connection) -> None:
    """As a user who has no inotify instance left, follow what another hub publishes."""
    become(user, user)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sse_hub").addHandler(handler)
    inotify_init = ctypes.CDLL(None).inotify_init
    while inotify_init() >= 0:
        pass
    with Hub(url) as writer, Hub(url) as reader:
        received = asyncio.run(seen(reader, 1, lambda: writer.publish("t", "polled")))
        # Another thread logs what each hub has to say.
        until(lambda: sum("cannot be watched" in message for message in messages) == 2)
    said.send((received, messages))
