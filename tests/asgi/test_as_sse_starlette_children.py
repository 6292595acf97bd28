"""``python -m sse_hub.as_sse_starlette``: the processes that a program starts with multiprocessing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

PROGRAM = """
import multiprocessing, sys
import sse_starlette

def tell(queue, method, depth):
    if depth:
        process = multiprocessing.get_context(method).Process(target=tell, args=(queue, method, depth - 1))
        process.start()
        process.join()
    else:
        queue.put(sse_starlette.EventSourceResponse.__module__)

if __name__ == "__main__":
    if preload := sys.argv[3:]:
        multiprocessing.set_forkserver_preload(preload)
    queue = multiprocessing.get_context(sys.argv[1]).SimpleQueue()
    tell(queue, sys.argv[1], int(sys.argv[2]))
    print("nothing" if queue.empty() else queue.get())
"""


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (["program.py"], ["spawn", "2"]),
        (["-m", "program"], ["spawn", "1"]),
        (["program.py"], ["forkserver", "1"]),
        (["program.py"], ["forkserver", "1", "__main__", "sse_starlette.sse"]),
    ],
    ids=["script", "module", "forkserver", "forkserver that imports"],
)
def test_they_have_the_alias_too(tmp_path: Path, arguments: list[str], method: list[str]) -> None:
    """A forkserver imports before it forks: what the program says, and from 3.14 on the main script."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "sse_hub.as_sse_starlette", *arguments, *method],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == "sse_hub._responses.event_source_response\n", done.stderr
