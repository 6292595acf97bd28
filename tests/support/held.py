"""A process that stands still where its test wants it to, and is paused there.

What it does next is then the first thing that it does when it goes on, and nothing can cancel that before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers import ServerProcess
    from stores import Store

__all__ = ["DIRECTORY", "paused_where_it_stands_still", "stand_still"]

DIRECTORY = "SSE_HUB_HELD"  # the variable: a file there, named by the process, makes it stand still


def stand_still() -> bool:
    """Block this thread as long as the test wants it; whether it did."""
    path = Path(os.environ.get(DIRECTORY, "/nowhere"), str(os.getpid()))
    if not path.exists():
        return False
    print("stands still", flush=True)
    while path.exists():
        time.sleep(0.01)
    print("goes on", flush=True)
    return True


@contextmanager
def paused_where_it_stands_still(server: ServerProcess, store: Store, directory: Path) -> Iterator[None]:
    """SIGSTOP for the time of a with block; afterwards, wait until the process has gone on."""
    file = directory / str(server.process.pid)
    file.touch()
    server.wait_for("stands still")
    store.suspend(server.process.pid)
    try:
        yield
    finally:
        file.unlink()
        os.kill(server.process.pid, signal.SIGCONT)
    server.wait_for("goes on")
