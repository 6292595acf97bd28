"""A hub over files: where a log may be stored, and how a frozen or dead process affects the others."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import file_writer
import pytest
from file_server import FileServer
from redis_workers import Pair, Worker, app_command, listening, takes
from servers import run
from sse_hub import BrokerError, FileBroker, Hub, OutcomeUnknown
from waiting import PATIENCE, promised, until, until_async


@contextmanager
def user(number: int) -> Iterator[None]:
    """Act as another user; root may."""
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


def test_urls_and_paths_name_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("file:events", f"file://{tmp_path}/events", "events", tmp_path / "events"):
        assert repr(FileBroker(given)) == f"<FileBroker {tmp_path}/events>"
    with Hub("file:events") as hub:
        monkeypatch.chdir("/")
        id = hub.publish("t", 1).result()
    assert (tmp_path / "events" / "default" / "lock").exists(), "the working directory is that of its start"
    assert FileServerAt(tmp_path / "events").ids() == [id]


class FileServerAt(FileServer):
    """A directory that the test made itself."""

    def __init__(self, root: Path) -> None:
        self.root = root


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ("", {}, "must not be empty"),
        ("file://host/events", {}, "names no host"),
        ("file:events?timeout=1", {}, "no query or fragment"),
        ("/dev/null/events", {}, "/dev/null is not a directory"),
        ("/proc/events", {}, "lies on procfs, which .* stores no files: choose a path on a local disk"),
        ("/sys/events", {}, "lies on sysfs, which .* stores no files: choose a path on a local disk"),
        ("x" * 256, {}, "too long"),
        ("x\0", {}, "null character"),
        ("events", {"timeout": 0}, "timeout"),
        ("events", {"min_age": -1}, "min_age"),
        ("events", {"mode": 0o400}, "mode must be"),
        ("events", {"mode": 0o700}, "mode must be"),
    ],
)
def test_what_is_no_place_for_a_log_is_refused_at_the_call(
    given: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        FileBroker(given, **options)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "..", "x" * 201])
def test_a_name_that_is_no_directorys_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        Hub(FileBroker(tmp_path / "events"), name=name)


def test_what_lies_in_the_place_of_a_log_is_refused_at_the_call(tmp_path: Path) -> None:
    (root := tmp_path / "events").mkdir(mode=0o700)
    (root / "file").touch()
    (root / "link").symlink_to(tmp_path)
    (root / "theirs").mkdir()
    os.chown(root / "theirs", 12345, 0)
    for name, said in (("file", "not a directory"), ("link", "a link")):
        with pytest.raises(ValueError, match=f"{root}/{name} is {said}"):
            Hub(FileBroker(root), name=name)
    with pytest.raises(PermissionError, match=f"{root}/theirs belongs to user 12345"):
        Hub(FileBroker(root), name="theirs")
    with pytest.raises(ValueError, match="/file is not a directory"):
        FileBroker(root / "file" / "events")


async def test_a_link_to_what_may_be_mounted_later_is_an_outage(tmp_path: Path) -> None:
    (link := tmp_path / "disk").symlink_to(tmp_path / "mounted")
    async with Hub(FileBroker(link / "events", timeout=0.3)) as hub:
        with pytest.raises(BrokerError, match=f"{link} is a link to a directory that does not exist"):
            await hub.publish("t", 1)
        (tmp_path / "mounted").mkdir()
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(BrokerError):
                    id = await hub.publish("t", 2)
                    break
    assert FileServerAt(tmp_path / "mounted" / "events").ids() == [id]


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (theirs := tmp_path / "theirs").mkdir(mode=0o755)
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o770)
    (anybodys := tmp_path / "anybodys").mkdir()
    anybodys.chmod(0o777)
    for path in (theirs, shared):
        os.chown(path, 12345, 0)
    with pytest.raises(PermissionError, match="belongs to user 12345, and this process runs as user 0"):
        FileBroker(theirs)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        FileBroker(shared)
    with Hub(FileBroker(shared, mode=0o660)) as hub:
        hub.publish("t", 1).result()
    assert oct((shared / "default").stat().st_mode) == oct(0o40770)
    with pytest.raises(PermissionError, match=r"anybody may write into .*chmod o-w"):
        FileBroker(anybodys)
    with user(65534), pytest.raises(PermissionError, match=r"\(user 65534\) may not write into .*: let an"):
        FileBroker(theirs / "deeper" / "events")


def test_only_the_user_may_read_what_was_published(files: FileServer) -> None:
    before = os.umask(0)
    try:
        with Hub(files.url) as hub:
            hub.publish("t", 1).result()
    finally:
        os.umask(before)
    assert all(path.stat().st_mode & 0o077 == 0 for path in [files.root, *files.root.rglob("*")])


def test_a_process_that_stands_still_with_the_lock_ends_no_stream(files: FileServer, pair: Pair) -> None:
    hubs = pair.hubs(files.url, broker={"timeout": 0.5})
    with listening(*(hub.listen() for hub in hubs)) as clients:
        (first,) = hubs[0].publish("before")
        takes(clients, ["before"])
        files.pause()
        began = time.monotonic()
        outcomes = [hub.outcomes("never")[0] for hub in hubs]
        assert time.monotonic() - began < promised(3)
        assert all("locked for 500ms" in outcome["error"] for outcome in outcomes), outcomes
        for client in clients:
            client.heartbeat()
            client.heartbeat()
        assert [hub.state() for hub in hubs] == ["connected", "connected"]
        # What is there is read all the same.
        with listening(hubs[1].listen(last_event_id=first)):
            pass
        files.resume()
        hubs[1].publish("after")
        takes(clients, ["after"])
        assert [client.resets for client in clients] == [[], []]
    assert "never" not in files.content(pair.name)


def test_a_disk_without_room_refuses_and_goes_on(files: FileServer) -> None:
    import resource

    with Hub(files.url) as hub:
        first = hub.publish("t", "first").result()
        size = files.segments()[0].stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
        try:
            with pytest.raises(BrokerError, match="nothing was written") as raised:
                hub.publish("t", "x" * 1000).result()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not isinstance(raised.value, OutcomeUnknown)
        second = hub.publish("t", "second").result()
    assert files.ids() == [first, second]


def wakes(name: str) -> int:
    """How often the thread of this name has gone to sleep so far."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # another thread has ended
            status = (task / "status").read_text()
            if status.startswith(f"Name:\t{name}\n"):
                said = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
                assert said
                return int(said[1])
    raise AssertionError(f"no thread is called {name!r}")


async def test_an_idle_process_sleeps(files: FileServer) -> None:
    async with Hub(files.url) as hub, hub.subscribe("t") as subscription:
        await hub.publish("t", 1)
        assert (await hub.presence()).ids == (subscription.id,)
        began, before = time.monotonic(), wakes("sse-hub-file")
        await until_async(lambda: wakes("sse-hub-file") >= before + 8)
        # It looks at the log once a second, for which the timer wakes it two or three times.
        assert time.monotonic() - began > 1.0


def test_the_clients_of_a_worker_that_died_are_gone_at_once(files: FileServer, pair: Pair) -> None:
    a = pair.workers[0].hub(files.url, pair.name)
    with run(app_command()) as process:
        dying = Worker(process)
        b = dying.hub(files.url, pair.name)
        with listening(a.listen("x"), b.listen("x")) as (one, two):
            both = sorted([one.id, two.id])
            until(lambda: a.presence("x")["ids"] == both)
            process.kill()
            died = time.monotonic()
            dying.http.close()
            until(lambda: a.presence("x")["ids"] == [one.id])
            assert time.monotonic() - died < promised(1)
    assert len([*(files.log(pair.name) / "workers").iterdir()]) == 1


def test_presence_is_written_again_when_it_was_deleted(files: FileServer, pair: Pair) -> None:
    a, b = pair.hubs(files.url)
    with listening(a.listen("x"), b.listen("x"), b.listen("y")) as (one, two, three):
        until(lambda: a.presence()["count"] == 3)
        for path in (files.log(pair.name) / "workers").iterdir():
            path.unlink()
        until(lambda: a.presence()["ids"] == sorted([one.id, two.id, three.id]))
        until(lambda: b.presence("x")["ids"] == sorted([one.id, two.id]))


async def test_a_table_that_grew_long_is_written_anew(files: FileServer) -> None:
    async with Hub(files.url) as hub:
        client = hub.subscribe("first")
        await hub.presence()
        for n in range(300):
            client.join(f"{n} {'long' * 20}")
            client.leave(f"{n} {'long' * 20}")
            if n % 10 == 0:
                await hub.presence()
        assert (await hub.presence("first")).ids == (client.id,)
        await until_async(lambda: table(files) < 70_000)


def table(files: FileServer) -> int:
    (path,) = (files.log() / "workers").iterdir()
    return path.stat().st_size


def test_a_deploy_resets_nobody(files: FileServer) -> None:
    """All workers end, and others start: clients go on where they were."""
    seen = []
    last = ""
    for round in range(3):
        with run(app_command()) as process:
            worker = Worker(process)
            hub = worker.hub(files.url, "default")
            with listening(hub.listen(last_event_id=last)) as (client,):
                hub.publish(f"{round} a", f"{round} b")
                seen += client.until(f"{round} b")
                assert client.resets == []
                last = client.last_event_id
                hub.publish(f"{round} missed")
            worker.http.close()
            process.terminate()
            process.wait()
    assert seen == ["0 a", "0 b", "0 missed", "1 a", "1 b", "1 missed", "2 a", "2 b"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_publish_and_hold_no_lock(files: FileServer, method: str) -> None:
    context = multiprocessing.get_context(method)
    with Hub(files.url) as hub:
        hub.publish("t", "before").result()
        children = [
            context.Process(target=file_writer.publish_once, args=(files.url, f"{n}")) for n in range(4)
        ]
        for child in children:
            child.start()
        ids = [hub.publish("t", f"parent {n}") for n in range(200)]
        assert all(one.result(PATIENCE) for one in ids)
        for child in children:
            child.join(PATIENCE)
            assert child.exitcode == 0
        content = files.content()
        assert all(f'data: "{n}"' in content for n in range(4))


def test_a_forked_child_leaves_the_lock_to_its_parent(files: FileServer) -> None:
    """It shares the open file: what the parent locks must end with the parent."""
    with Hub(files.url) as hub:
        hub.publish("t", 1).result()
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(write)
            os.read(read, 1)  # until the parent closes it
            os._exit(0)
        os.close(read)
        until(lambda: files.open_in(child) == 0)
        hub.publish("t", 2).result()
        os.close(write)
        os.waitpid(child, 0)


def test_a_forked_child_keeps_no_file_that_is_opened_meanwhile(files: FileServer) -> None:
    """The broker's threads open and close files while the application forks."""
    for _ in range(100):
        with Hub(files.url):
            begun, begins = os.pipe()
            ended, ends = os.pipe()
            if (child := os.fork()) == 0:
                os.write(begins, b"x")
                os.close(ends)
                os.read(ended, 1)  # until the parent closes it
                os._exit(0)
            os.close(ended)
            os.read(begun, 1)
            kept = files.open_in(child)
            for fd in (begun, begins, ends):
                os.close(fd)
            os.waitpid(child, 0)
        assert kept == 0


async def test_a_machine_that_stopped_resets_everybody_once(files: FileServer) -> None:
    async with Hub(files.url) as hub:
        ids = [await hub.publish("t", n) for n in range(3)]
    note = files.log() / "boot"
    assert f"closed {ids[-1]}" in note.read_text(), "written before aclose() returned"
    note.write_text("boot another\nsynced no\n")
    last = str(ids[0])
    for expected in (True, False):
        async with Hub(files.url) as hub:
            stream = hub.subscribe("t", last_event_id=last)
            await hub.publish("t", "on")
            received = b""
            async with asyncio.timeout(PATIENCE):
                while b'data: "on"' not in received:
                    received += await anext(stream)
            assert (b"stream-reset" in received) == expected
            last = str(await hub.publish("t", "last"))


async def test_hubs_that_close_at_once_note_that_all_is_on_disk(files: FileServer) -> None:
    for _ in range(5):
        hubs = [Hub(files.url) for _ in range(4)]
        await asyncio.gather(*(hub.publish("t", n) for n, hub in enumerate(hubs)))
        await asyncio.gather(*(hub.aclose() for hub in hubs))
        assert f"closed {files.last_id()}\n" in (files.log() / "boot").read_text()


async def test_synced_events_are_published(files: FileServer) -> None:
    async with Hub(files.broker(sync=True)) as hub:
        ids = await asyncio.gather(*(hub.publish("t", n) for n in range(500)))
        assert files.ids() == ids
    assert "synced yes" in (files.log() / "boot").read_text()


@pytest.mark.parametrize("version", [0, 2])
async def test_a_log_of_another_version_is_refused(
    files: FileServer, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    async with Hub(files.url) as hub:
        await hub.publish("t", 1)
    (segment,) = files.segments()
    content = bytearray(segment.read_bytes())
    content[8] = version
    segment.write_bytes(content)
    async with Hub(files.broker(timeout=0.3)) as hub:
        with pytest.raises(BrokerError, match="another version of sse-hub wrote"):
            await hub.publish("t", 2)
        await until_async(lambda: "nothing was changed" in caplog.text)
    assert segment.read_bytes() == content
