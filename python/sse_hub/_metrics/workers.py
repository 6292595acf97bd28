"""The metrics of a server's other workers: each worker writes its own to a file that the others read.

A scrape reaches one worker of a server, whichever accepts the connection. ``prometheus_client``'s own
multiprocess mode takes no values that are computed when they are asked for, so it cannot be used here.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from sse_hub._metrics.families import Values

__all__ = ["Workers"]

logger = logging.getLogger("sse_hub")

EVERY = 5.0  # seconds between two writes
GONE = 3 * EVERY  # seconds after its last write in which a worker is taken for alive


class Workers:
    """The directory in which workers find each other's metrics.

    ``read`` returns the values of this process, by the hub's name. A daemon thread writes them.
    """

    def __init__(self, directory: str | os.PathLike[str], read: Callable[[], dict[str, Values]]) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._read = read
        self._warned = False
        self._start()
        this = weakref.ref(self)

        def in_child() -> None:
            if (workers := this()) is not None:
                workers._start()

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=in_child)

    def _start(self) -> None:
        self._stopped = threading.Event()
        weakref.finalize(self, self._stopped.set)
        arguments = (weakref.ref(self), self._stopped)
        threading.Thread(target=_keep_writing, args=arguments, name="sse-hub metrics", daemon=True).start()

    @property
    def own(self) -> str:
        """The name of this worker: its process id."""
        return str(os.getpid())

    def write(self) -> None:
        """Write this worker's values, so that a reader finds either all of them or the last ones."""
        path = self._directory / f"{self.own}.json"
        new = path.with_suffix(".new")
        try:
            new.write_text(json.dumps(self._read()), encoding="utf-8")
            new.replace(path)
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "metrics of worker %s cannot be written to %s, so other workers do not show them: %s",
                    self.own,
                    self._directory,
                    error,
                )

    def all(self) -> Iterator[tuple[str, dict[str, Values]]]:
        """The values of each worker that lives, this one first."""
        yield self.own, self._read()
        for path in sorted(self._directory.glob("*.json")):
            if path.stem == self.own:
                continue
            with suppress(FileNotFoundError):  # another worker has removed it
                if time.time() - path.stat().st_mtime > GONE:
                    path.unlink()
                else:
                    yield path.stem, json.loads(path.read_text(encoding="utf-8"))


def _keep_writing(workers: weakref.ref[Workers], stopped: threading.Event) -> None:
    while True:
        if (alive := workers()) is None:
            return
        alive.write()
        del alive
        if stopped.wait(EVERY):
            return
