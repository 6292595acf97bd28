"""``python -m sse_hub.log``, as an operator uses it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from file_server import FileServer
from sse_hub import Hub
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


def test_no_log_is_said(files: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(files.directory)]) == 2
    assert "there is no log in" in capsys.readouterr().err


def test_what_comes_is_followed(files: FileServer, ids: list[str]) -> None:
    command = [sys.executable, "-m", "sse_hub.log", str(files.log()), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, Hub(files.url) as hub:
        over = threading.Event()

        def publish() -> None:  # again and again: it may have begun or not
            while not over.wait(0.1):
                hub.publish("a", "new").result(PATIENCE)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
        finally:
            over.set()
            thread.join()
            process.kill()
    assert all(line.endswith('  a  data: "new"\n') for line in lines)
