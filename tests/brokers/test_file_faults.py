"""What the system can do to a hub over files: processes that stand still, no descriptors, several users."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import file_writer
import pytest
from file_server import FileServer, number, text
from file_writer import fork_server
from redis_workers import Pair, listening, takes
from servers import stopped
from sse_hub import BrokerError, FileBroker, Hub, OutcomeUnknown
from waiting import PATIENCE, promised, until_async

# Users and a group that nobody else on this machine has.
ADA, BOB, GROUP = 54321, 54322, 54320


@pytest.fixture(scope="module")
def context() -> Any:
    """A server that forks processes without threads."""
    return fork_server()


@contextmanager
def started(context: Any, act: Callable[..., None], *args: Any) -> Iterator[Any]:
    """A process that is killed with the block, and what it says."""
    ours, theirs = context.Pipe()
    process = context.Process(target=act, args=(*args, theirs))
    process.start()
    theirs.close()
    process.said = ours
    try:
        yield process
    finally:
        process.kill()
        process.join()


def says(said: Connection) -> Any:
    assert said.poll(PATIENCE), "says nothing"
    return said.recv()


def is_locked(files: FileServer) -> bool:
    """Whether a process has the log locked now."""
    lock = os.open(files.log() / "lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def stands(process: int) -> bool:
    """Whether a stopped process's threads all stand still."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


def data(received: bytes) -> list[bytes]:
    return [line for line in received.splitlines() if line.startswith(b"data: ")]


async def test_a_writer_that_is_stopped_in_the_middle_of_a_batch(
    files: FileServer, tmp_path: Path, context: Any
) -> None:
    async with Hub(FileBroker(files.url, timeout=0.5), heartbeat=0.2) as hub:
        await hub.publish("t", "first")
        process = context.Process(target=file_writer.write, args=(files.url, "w", str(tmp_path / "record")))
        process.start()
        try:
            for _ in range(10_000):
                os.kill(process.pid, signal.SIGSTOP)
                await until_async(lambda: stands(process.pid))
                if is_locked(files):
                    break
                os.kill(process.pid, signal.SIGCONT)
                await asyncio.sleep(0.0005)  # anywhere in its work
            else:
                raise AssertionError("never had the lock when it was stopped")
            stream = hub.subscribe("t", control=False)
            before = files.segments()[-1].stat().st_size
            began = time.monotonic()
            with pytest.raises(BrokerError, match="nothing was written") as raised:
                await hub.publish("t", "never")
            assert time.monotonic() - began < promised(2)
            assert not isinstance(raised.value, OutcomeUnknown)
            assert files.segments()[-1].stat().st_size == before
            for _ in range(2):
                while (await anext(stream)) != b":\n":  # a heartbeat
                    pass
            os.kill(process.pid, signal.SIGCONT)
            await until_async(lambda: not is_locked(files))  # on a busy machine it takes a while to go on
            assert await hub.publish("t", "after")
        finally:
            process.kill()
            process.join()
    assert "never" not in files.content()


def test_a_reader_that_is_stopped_gets_everything(files: FileServer, pair: Pair) -> None:
    a, b = pair.hubs(files.url)
    with listening(a.listen(), b.listen()) as clients:
        a.publish("before")
        takes(clients, ["before"])
        with stopped(pair.workers[1].process.process.pid):
            a.publish(*range(2000))
        takes(clients, [*range(2000)])
        assert [client.resets for client in clients] == [[], []]


def test_a_reader_that_is_stopped_for_longer_than_the_log_keeps_is_reset(
    files: FileServer, pair: Pair
) -> None:
    a, b = pair.hubs(files.url, broker={"min_age": 0.0}, history=50)
    events = [f"{n} {'x' * 2000}" for n in range(200)]
    with listening(a.listen(), b.listen()) as (here, there):
        a.publish("before")
        takes([here, there], ["before"])
        (first,) = files.segments(pair.name)
        with stopped(pair.workers[1].process.process.pid):
            for at in range(0, len(events), 10):  # which the other one's client can follow
                a.publish(*events[at : at + 10])
                takes([here], events[at : at + 10])
            assert not first.exists()
        there.until_reset(*events)
        rest = there.until(events[-1])
        assert rest == events[-len(rest) :]
        assert [here.resets, there.resets] == [[], []]


@pytest.mark.parametrize("part", ["head of the file", "head of a record", "fields of a record"])
async def test_a_wrong_byte_is_a_reset_and_is_not_delivered(files: FileServer, part: str) -> None:
    async with Hub(files.url) as hub:
        ids = [await hub.publish("t", f"event {n}") for n in range(10)]
    (path,) = files.segments()
    content = bytearray(path.read_bytes())
    at = content.index(b"event 5")
    content[{"head of the file": 30, "head of a record": at - 60, "fields of a record": at}[part]] ^= 4
    path.write_bytes(content)
    async with Hub(files.url, grace=0.0) as hub:
        stream = hub.subscribe("t", last_event_id=str(ids[2]))
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b"stream-reset" not in received:
                received += await anext(stream)
            before, _, _ = received.partition(b"event: stream-reset")
            assert re.findall(rb"event (\d)", before) in ([], [b"3", b"4"])
            await hub.publish("t", "on")
            while b'data: "on"' not in received:
                received += await anext(stream)
        stream.close()
    assert received.count(b"event: stream-reset") == 1
    assert b"event 5" not in received


async def test_a_file_of_another_version_that_appears_is_an_outage(files: FileServer) -> None:
    """In a rolling deploy: the older version stops writing, and its streams stay open."""
    async with Hub(files.broker(timeout=0.3), heartbeat=0.2, grace=0.0) as hub:
        last = str(await hub.publish("t", 1))
        stream = hub.subscribe("t", control=False)
        whole, note = files.segments()[0].read_bytes(), (files.log() / "lock").read_bytes()
        later = number(last) + (1 << 20)
        newer = files.log() / f"{text(later)}.log"
        (files.log() / "lock").write_bytes(struct.pack("<q", later))
        newer.write_bytes(whole[:8] + b"\2" + whole[9:40])
        with pytest.raises(BrokerError, match="another version of sse-hub wrote") as raised:
            await hub.publish("t", 2)
        assert not isinstance(raised.value, OutcomeUnknown)
        assert files.segments()[0].read_bytes() == whole
        for _ in range(2):
            while (await anext(stream)) != b":\n":  # a heartbeat
                pass
        newer.unlink()
        (files.log() / "lock").write_bytes(note)
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b"data: 3" not in received:
                with suppress(BrokerError):
                    await hub.publish("t", 3)
                received += await anext(stream)  # GapError for a reset
        stream.close()


def test_a_process_without_descriptors_says_so_and_recovers(files: FileServer, context: Any) -> None:
    """With so many left: from none at all to as many as a hub needs."""
    outcomes = []
    with started(context, file_writer.starve, files.url) as process:
        while (told := says(process.said)) is not None:
            outcomes.append(told)
    kept = {*files.ids()}
    for outcome, after in outcomes:
        kind, said = outcome.split(" ", 1)
        if kind == "id":
            assert said in kept
        else:
            assert kind in ("BrokerError", "OSError"), outcome
            assert "Too many open files" in said, outcome
        assert after in kept
    kinds = [outcome.split(" ", 1)[0] for outcome, _ in outcomes]
    assert kinds[0] != "id", "it could open no file"
    assert kinds[-1] == "id", "it had all that it needs"
    assert len(kept) == len(outcomes) + kinds.count("id"), "what failed is not there"


def test_a_directory_that_cannot_be_watched_is_polled(files: FileServer, context: Any) -> None:
    files.directory.chmod(0o755)
    files.root.mkdir()
    os.chown(files.root, ADA, ADA)
    with started(context, file_writer.poll, files.url, ADA) as process:
        received, messages = says(process.said)
    assert b'data: "polled"' in received
    told = [message for message in messages if "cannot be watched" in message]
    assert len(told) == 2, messages  # one for each hub
    assert "polled every 20 ms" in told[0]
    assert "fs.inotify.max_user_instances" in told[0]


def test_two_users_of_a_group_are_one_hub(files: FileServer, context: Any) -> None:
    files.directory.chmod(0o755)
    files.root.mkdir()
    os.chown(files.root, ADA, GROUP)
    files.root.chmod(0o770)
    count = 30
    with (
        started(context, file_writer.share, files.url, ADA, GROUP, count) as ada,
        started(context, file_writer.share, files.url, BOB, GROUP, count) as bob,
    ):
        one, two = says(ada.said), says(bob.said)
    for user in (ADA, BOB):
        for n in range(count):
            assert f'data: "{user} {n}"'.encode() in one
    assert data(one) == data(two), "in one order"
    owners = {path.stat().st_uid for path in files.log().rglob("*")}
    assert owners <= {ADA, BOB}
    assert all(path.stat().st_mode & 0o007 == 0 for path in files.root.rglob("*")), "nobody else may read"
