"""``python -m sse_hub.log``, as an operator uses it."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from file_server import Entry, FileServer, number, text, write_segment
from sse_hub import FileBroker, Hub
from sse_hub.log import main
from waiting import PATIENCE


@pytest.fixture
def ids(files: FileServer) -> list[str]:
    """A log with events of every kind."""
    with Hub(files.url) as hub:
        ids = [str(hub.publish(["a", "b"], {"n": 1}, event="tick").result())]
        ids.append(str(hub.broadcast("to everybody").result()))
        hub.disconnect(user="ann")
        ids.append(str(hub.publish("a", raw_data="x" * 500).result()))
    return ids


def test_what_a_log_holds(files: FileServer, ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files.log())]) == 0
    first, second, kick, long = capsys.readouterr().out.splitlines()
    assert first == f'{ids[0]}  a,b  event: tick | data: {{"n":1}}'
    assert second == f'{ids[1]}  to all  data: "to everybody"'
    assert "  kick  ann" in kick
    assert long.startswith(f"{ids[2]}  a  data: xxx")
    assert long.endswith("… (506 characters)")


def test_a_whole_log_is_whole(files: FileServer, ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files.log()), "--check"]) == 0
    assert capsys.readouterr().out == "4 entries, no problems\n"


def field(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack("<I", len(value)) + value


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (field(b"\xff", b"?") + field(b"k", b"a") + field(b"d", b"known"), "  to all  known"),
        (field(b"k", b"\xff") + field(b"t", b"\xfe\n\xff") + field(b"d", b"\xff"), "  \ufffd,\ufffd  \ufffd"),
        (field(b"d", b"cut")[:-1], ""),
        (field(b"d", b"cut")[:3], ""),
        (b"\x09", ""),
    ],
    ids=["name", "value", "cut-value", "cut-size", "cut-name"],
)
def test_what_no_hub_wrote_is_shown_as_far_as_it_can_be_read(
    files: FileServer, ids: list[str], capsys: pytest.CaptureFixture[str], fields: bytes, shown: str
) -> None:
    first = files.entries()[0]
    files.rewrite("default", first.before, [first, Entry("5000000000000-0", first.id, fields)])
    assert main([str(files.log())]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"5000000000000-0{shown}"
    assert main([str(files.log()), "--check"]) == 0


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (20, "its head is damaged"),
        (8, "its format is 3, which this version of sse-hub does not know"),
        (44, "at byte 40, there is no record"),
        (-3, "the fields of {last} are damaged"),
    ],
)
def test_damage_is_said(
    files: FileServer, ids: list[str], capsys: pytest.CaptureFixture[str], at: int, said: str
) -> None:
    (path,) = files.segments()
    content = bytearray(path.read_bytes())
    content[at] ^= 2
    path.write_bytes(content)
    assert main([str(files.log()), "--check"]) == 1
    assert said.format(last=ids[2]) in capsys.readouterr().out


def test_what_is_missing_is_said(
    files: FileServer, ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    files.remove(ids[1])
    assert main([str(files.log()), "--check"]) == 1
    assert f"entries are missing between {ids[0]} and " in capsys.readouterr().out


@pytest.fixture
def small(files: FileServer) -> list[Path]:
    """A log that was closed, in three files of a few hundred bytes."""
    with Hub(files.url) as hub:
        for n in range(7):
            hub.publish("t", n).result()
    entries = files.entries()
    files.rewrite("default", entries[0].before, entries[:3])
    for at in (3, 5):
        write_segment(files.log(), entries[at].before, entries[at : at + 2])
    (files.log() / "lock").write_bytes(struct.pack("<q", number(entries[5].before)))
    paths = files.segments()
    assert len(paths) == 3
    assert main([str(files.log()), "--check"]) == 0
    return paths


@pytest.mark.parametrize("damage", ["wrong", "cut"])
def test_damage_anywhere_is_found(
    files: FileServer, small: list[Path], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr("sse_hub.log._POLL", 0.0)
    for path in small:
        whole = path.read_bytes()
        for at in range(len(whole)):
            wrong = bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] if damage == "wrong" else b""
            path.write_bytes(whole[:at] + wrong)
            assert main([str(files.log()), "--check"]) == 1, f"{path.name} at {at}"
        path.write_bytes(whole)
    assert main([str(files.log()), "--check"]) == 0


def test_a_file_that_is_missing_is_said(
    files: FileServer, small: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, middle, newest = small
    for path, said in [
        (newest, f"{newest.name}, the newest file, is missing"),
        (middle, f"entries are missing between {middle.stem} and {newest.stem}"),
    ]:
        kept = path.rename(path.with_suffix(".away"))
        assert main([str(files.log()), "--check"]) == 1
        assert said in capsys.readouterr().out
        kept.rename(path)
    first.unlink()  # as hubs do
    assert main([str(files.log()), "--check"]) == 0


def test_a_file_that_is_deleted_while_it_is_read_is_left_out(
    files: FileServer, small: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = small
    first.unlink()
    first.symlink_to(files.directory / "nothing")
    capsys.readouterr()
    for options in ([], ["--check"]):
        assert main([str(files.log()), *options]) == 0
    assert capsys.readouterr().out.endswith("4 entries, no problems\n")


def test_no_log_is_said(files: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files.directory)]) == 2
    assert capsys.readouterr().err.endswith(": pass the directory that has the *.log files\n")


def test_the_logs_below_a_directory_are_named(
    files: FileServer, small: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(files.log().parent)]) == 2
    assert capsys.readouterr().err == f"there is no log in {files.log().parent}: pass {files.log()}\n"


@contextmanager
def following(files: FileServer, hub: Hub) -> Iterator[TextIO]:
    """What ``--follow`` prints, once it has begun."""
    command = [sys.executable, "-m", "sse_hub.log", str(files.log()), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        over = threading.Event()

        def publish() -> None:  # again and again: it may have begun or not
            while not over.wait(0.1):
                hub.publish("a", "begin").result(PATIENCE)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline().endswith('  a  data: "begin"\n')
            over.set()
            thread.join()
            yield process.stdout
        finally:
            over.set()
            thread.join()
            process.kill()


def line(output: TextIO) -> str:
    """The next line of what the test itself did."""
    while (said := output.readline()).endswith('  a  data: "begin"\n'):
        pass
    return said


def test_what_comes_is_followed_over_many_files(files: FileServer, ids: list[str]) -> None:
    with (
        Hub(FileBroker(files.url, min_age=0.0), history=400) as hub,  # 50 events in a file
        following(files, hub) as output,
    ):
        before = len(files.segments())
        for n in range(300):
            hub.publish("a", f"{n} {'x' * 500}").result(PATIENCE)  # not in one batch
        for n in range(300):
            assert f'  a  data: "{n} xxx' in line(output)
        assert len(files.segments()) >= before + 3


def test_what_is_missing_is_said_while_it_is_followed(files: FileServer, ids: list[str]) -> None:
    with Hub(files.url) as hub, following(files, hub) as output:
        entries = files.entries()
        last, later = entries[-1].id, [text(number(entries[-1].id) + 1000 * n) for n in (1, 2)]
        new = Entry(later[1], later[0], entries[0].fields)
        files.rewrite("default", entries[0].before, [*entries, new])
        assert line(output) == f"entries are missing between {last} and {later[1]}\n"
        assert line(output).startswith(f"{later[1]}  a,b  event: tick")
