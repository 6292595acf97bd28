"""The threads of this process that serve handed-off streams, as /proc shows them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def reactors() -> set[Path]:
    """The threads of this process that are reactors; one that has ended may be among them for a moment."""
    found = set()
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if path.read_text().startswith("sse-hub-reactor"):
                found.add(path.parent)
    return found


def wake_ups(reactor: Path) -> int:
    """How often it has slept."""
    status = (reactor / "status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def signals() -> set[Path]:
    """The eventfds of this process: what threads and event loops are woken by."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(path) == "anon_inode:[eventfd]":
                found.add(Path("/proc/self/fdinfo") / path.name)
    return found


def unheard(signal: Path) -> int:
    """How many times it was written to since it was read."""
    return int(signal.read_text().partition("\neventfd-count:")[2].split()[0], 16)
