"""A directory for hubs over files, and the log in it, which this module reads with its own code.

The format is that of ``src/file/format.rs``: what the hubs write is read here by other code, and the hubs
read what is written here. ``FileServer`` breaks a log as ``RedisServer`` breaks a stream; files know no
outage, but a process that has the lock and does not go on (``pause``).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from sse_hub import FileBroker

HEAD = struct.Struct("<8sIIIIqQ")
RECORD = struct.Struct("<IIqqI")
MAGIC = b"sse-hub\n"
VERSION = 1


def number(id: str) -> int:
    """An id of the wire as a log has it."""
    ms, _, counter = id.partition("-")
    return int(ms) << 20 | int(counter)


def text(number: int) -> str:
    """The id of the wire."""
    return f"{number >> 20}-{number & (1 << 20) - 1}"


@dataclass
class Entry:
    """A record of a log."""

    id: str
    before: str
    fields: bytes

    @property
    def named(self) -> dict[str, bytes]:
        """Its fields by name."""
        rest, found = self.fields, {}
        while rest:
            name, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
            (size,) = struct.unpack_from("<I", rest)
            found[name.decode()], rest = rest[4 : 4 + size], rest[4 + size :]
        return found


def read_segment(path: Path) -> tuple[str, list[Entry]]:
    """The id before a segment's first record, and its records; whatever is no whole record ends it."""
    content = path.read_bytes()
    magic, version, crc, key, _, base, _given = HEAD.unpack_from(content)
    assert (magic, version) == (MAGIC, VERSION)
    assert crc == crc32(content[16 : HEAD.size], version)
    entries, at = [], HEAD.size
    while at + RECORD.size <= len(content):
        size, check, id, before, crc = RECORD.unpack_from(content, at)
        fields = content[at + RECORD.size : at + size]
        if check != check_of(key, at, content[at : at + RECORD.size]) or crc != crc32(fields, key):
            break
        entries.append(Entry(text(id), text(before), fields))
        at += size
    return text(base), entries


def check_of(key: int, at: int, head: bytes) -> int:
    return crc32(head[8:], crc32(head[:4], crc32(struct.pack("<Q", at), key)))


def write_segment(directory: Path, base: str, entries: list[Entry]) -> None:
    """A segment with these records, in place of one that may be there."""
    key = 7
    content = bytearray(HEAD.pack(MAGIC, VERSION, 0, key, 0, number(base), 0))
    struct.pack_into("<I", content, 12, crc32(bytes(content[16:]), VERSION))
    for entry in entries:
        at = len(content)
        size, crc = RECORD.size + len(entry.fields), crc32(entry.fields, key)
        content += RECORD.pack(size, 0, number(entry.id), number(entry.before), crc)
        struct.pack_into("<I", content, at + 4, check_of(key, at, bytes(content[at:])))
        content += entry.fields
    new = directory / "segment.new"
    new.write_bytes(content)
    new.rename(directory / f"{base}.log")


class FileServer:
    """A directory of logs, as the tests break it."""

    kind = "file"

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sse-hub-file-"))
        self.root = self.directory / "events"
        self._paused: list[int] = []

    @property
    def url(self) -> str:
        return f"file://{self.root}"

    def broker(self, **options: Any) -> FileBroker:
        """A broker of these logs; options that are Redis's alone are left out."""
        options.pop("connect_timeout", None)
        return FileBroker(self.url, **options)

    def log(self, name: str = "default") -> Path:
        """The directory of a hub's log."""
        return self.root / name

    def segments(self, name: str = "default") -> list[Path]:
        """The files of a hub's log, in their order."""
        return sorted(self.log(name).glob("*.log"), key=lambda path: number(path.stem))

    def entries(self, name: str = "default") -> list[Entry]:
        """All records of a hub's log."""
        return [entry for path in self.segments(name) for entry in read_segment(path)[1]]

    def ids(self, name: str = "default") -> list[str]:
        return [entry.id for entry in self.entries(name)]

    def content(self, name: str = "default") -> str:
        """What the entries carry, for a look whether something is among it."""
        return str([entry.fields for entry in self.entries(name)])

    def data(self, name: str = "default") -> list[str]:
        """The lines of the entries' events."""
        return [entry.named["d"].decode() for entry in self.entries(name)]

    def last_id(self, name: str = "default") -> str:
        """The last id that the log gave."""
        *_, newest = self.segments(name)
        base, entries = read_segment(newest)
        return entries[-1].id if entries else base

    @contextmanager
    def locked(self, name: str = "default") -> Iterator[None]:
        """Nobody else writes."""
        lock = os.open(self.log(name) / "lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)

    def rewrite(self, name: str, base: str, entries: list[Entry]) -> None:
        """Put other files in place of a log's."""
        with self.locked(name):
            old = self.segments(name)
            write_segment(self.log(name), base, entries)
            for path in old:
                if path.stem != base:
                    path.unlink()
            (self.log(name) / "lock").write_bytes(struct.pack("<q", number(base)))

    def trim(self, name: str = "default", *, keep: int) -> None:
        """Delete all entries but the newest."""
        entries, last = self.entries(name), self.last_id(name)
        kept = entries[len(entries) - keep :]
        self.rewrite(name, kept[0].before if kept else last, kept)

    def remove(self, id: str, name: str = "default") -> None:
        """Delete one entry."""
        entries = self.entries(name)
        self.rewrite(name, entries[0].before, [entry for entry in entries if entry.id != id])

    def delete(self, name: str = "default") -> None:
        """Delete a hub's log."""
        # Moved first, or a hub puts something new beside the rest. A hub that has it open may still write
        # there; that goes with everything else.
        gone = Path(tempfile.mkdtemp(dir=self.directory))
        self.log(name).rename(gone / name)
        shutil.rmtree(gone, ignore_errors=True)

    def empty(self) -> None:
        """Delete everything."""
        for log in [*self.root.iterdir()]:
            self.delete(log.name)

    def keep_disk(self) -> Path:
        """Copy the files, for ``restart_with``."""
        kept = Path(tempfile.mkdtemp(dir=self.directory)) / "events"
        # A hub that writes a file anew renames it.
        return Path(shutil.copytree(self.root, kept, ignore=shutil.ignore_patterns("*.new", "new.tmp")))

    def restart_with(self, disk: Path) -> None:
        """Put an older copy of all files in their place."""
        self.root.rename(Path(tempfile.mkdtemp(dir=self.directory)) / "events")
        while True:
            try:
                disk.rename(self.root)
            except OSError:  # a hub was quicker, and began anew
                shutil.rmtree(self.root, ignore_errors=True)
            else:
                return

    def clock_ahead(self, name: str = "default", *, by: float = 3600.0) -> None:
        """Begin a hub's log, which does not exist yet, ``by`` seconds in the future."""
        self.log(name).mkdir(mode=0o700, parents=True)
        self.root.chmod(0o700)
        base = f"{int((time.time() + by) * 1000)}-1000001"
        write_segment(self.log(name), base, [])
        (self.log(name) / "lock").write_bytes(struct.pack("<q", number(base)))

    def grow_old(self, name: str, seconds: float) -> dict[str, str]:
        """Make everything in a log so much older; what became of each id."""
        aged: dict[str, str] = {}

        def older(id: str) -> str:
            return aged.setdefault(id, text(number(id) - (int(seconds * 1000) << 20)))

        entries = [Entry(older(one.id), older(one.before), one.fields) for one in self.entries(name)]
        self.rewrite(name, entries[0].before, entries)
        boot = self.log(name) / "boot"
        boot.write_text(re.sub(r"(?<=^closed )\S+", lambda id: older(id[0]), boot.read_text(), flags=re.M))
        return aged

    def suspend(self, process: int, name: str = "default") -> None:
        """SIGSTOP for a process, not in the midst of a batch: nobody else could write then."""
        lock = os.open(self.log(name) / "lock", os.O_RDWR)
        try:
            while True:
                os.kill(process, signal.SIGSTOP)
                # A stopped process may still run for an instant, and another one may be writing.
                os.waitid(os.P_PID, process, os.WSTOPPED)
                for _ in range(50):
                    with suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        return
                    time.sleep(0.002)
                os.kill(process, signal.SIGCONT)
        finally:
            os.close(lock)

    def pause(self) -> None:
        """Lock all logs, as a process does that is stopped in the middle of a batch."""
        for path in self.root.glob("*/lock"):
            lock = os.open(path, os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._paused.append(lock)

    def resume(self) -> None:
        """Unlock them."""
        while self._paused:
            os.close(self._paused.pop())

    def clients(self) -> int:
        """How many files of the logs this process has open."""
        return self.open_in(os.getpid())

    def open_in(self, process: int) -> int:
        """How many files of the logs a process has open."""
        count = 0
        for fd in os.listdir(f"/proc/{process}/fd"):
            with suppress(FileNotFoundError):  # closed since
                count += str(self.root) in os.readlink(f"/proc/{process}/fd/{fd}")
        return count

    def close(self) -> None:
        self.resume()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> FileServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
