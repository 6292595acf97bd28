"""Look at a log of ``Hub("file:…")``: ``python -m sse_hub.log PATH``.

``PATH`` is a log's directory, such as ``events/default``. Nothing is locked and nothing is changed, so a log
may be read while hubs use it. The format is described in ``src/file/format.rs``.
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from zlib import crc32

_HEAD = struct.Struct("<8sIIIIqQ")
_RECORD = struct.Struct("<IIqqI")
_MAGIC = b"sse-hub\n"
_VERSION = 1
_POLL = 0.2  # seconds between two polls of --follow
_SHOWN = 100  # characters shown of an event


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a log, and its position."""

    id: int
    before: int
    fields: dict[str, bytes]
    end: int


def _text(id: int) -> str:
    return f"{id >> 20}-{id & (1 << 20) - 1}"


def _number(text: str) -> int:
    ms, _, counter = text.partition("-")
    return int(ms) << 20 | int(counter)


def _text_of(field: bytes) -> str:
    """A field's text; whoever may write to the log may have written anything."""
    return field.decode(errors="replace")


def _split(content: bytes) -> dict[str, bytes]:
    """The fields of a record; none if one of them is cut."""
    fields: dict[str, bytes] = {}
    while content:
        name, content = content[1 : 1 + content[0]], content[1 + content[0] :]
        size = int.from_bytes(content[:4], "little")
        if len(content) < 4 + size:
            return {}
        fields.setdefault(_text_of(name), content[4 : 4 + size])
        content = content[4 + size :]
    return fields


class Segment:
    """One file of a log, read from its beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base = _number(path.stem)
        self.damage = ""

    def records(self, at: int = 0) -> Iterator[Record]:
        """Yield the records from a position on; ``damage`` says afterwards why reading stopped."""
        self.damage = ""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:  # a hub has deleted it meanwhile: nothing keeps it any longer
            return
        if len(content) < _HEAD.size or content[:8] != _MAGIC:
            self.damage = "its head is damaged"
            return
        _, version, crc, key, _, base, _ = _HEAD.unpack_from(content)
        if version != _VERSION:
            self.damage = f"its format is {version}, which this version of sse-hub does not know"
            return
        if crc != crc32(content[16 : _HEAD.size], version) or base != self.base:
            self.damage = "its head is damaged"
            return
        at = at or _HEAD.size
        while at < len(content):
            head = content[at : at + _RECORD.size]
            if len(head) < _RECORD.size:
                self.damage = f"at byte {at}, the last record is incomplete"
                return
            size, check, id, before, crc = _RECORD.unpack(head)
            if check != crc32(head[8:], crc32(head[:4], crc32(struct.pack("<Q", at), key))):
                self.damage = f"at byte {at}, there is no record"
                return
            content_of = content[at + _RECORD.size : at + size]
            if at + size > len(content):
                self.damage = f"at byte {at}, the last record is incomplete"
                return
            if crc != crc32(content_of, key):
                self.damage = f"at byte {at}, the fields of {_text(id)} are damaged"
                return
            at += size
            yield Record(id, before, _split(content_of), at)


def _segments(log: Path) -> list[Segment]:
    found = [Segment(path) for path in log.glob("*.log") if re.fullmatch(r"\d+-\d+", path.stem)]
    return sorted(found, key=lambda segment: segment.base)


_KINDS = {
    "a": "to all",
    "o": "to one",
    "i": "kick",
    "u": "kick",
    "b": "begins",
    "s": "stops",
    "e": "ends",
    "g": "gap",
}


def _line(record: Record) -> str:
    kind, to, data = (_text_of(record.fields.get(name, b"")) for name in "ktd")
    to, data = to.replace("\n", ","), data.strip().replace("\n", " | ")
    shown = data if len(data) <= _SHOWN else f"{data[:_SHOWN]}… ({len(data)} characters)"
    return "  ".join(filter(None, [_text(record.id), _KINDS.get(kind, ""), to, shown]))


def _show(log: Path) -> int:
    for segment in _segments(log):
        for record in segment.records():
            print(_line(record))
    return 0


def _noted(log: Path) -> tuple[int, int]:
    """The newest segment and the last entry, according to the notes beside the log; 0 without a note."""
    newest = (log / "lock").read_bytes()[:8] if (log / "lock").exists() else b""
    boot = (log / "boot").read_text(errors="replace") if (log / "boot").exists() else ""
    closed = re.search(r"^closed (\d+-\d+)$", boot, re.MULTILINE)
    return int.from_bytes(newest, "little"), _number(closed[1]) if closed else 0


def _problems(log: Path) -> Iterator[str | None]:
    """Yield what is damaged, and where entries are missing; None for each entry."""
    newest, closed = _noted(log)
    last = base = None
    for segment in _segments(log):
        base, name = segment.base, segment.path.name
        if last is not None and base != last:
            yield f"{name}: entries are missing between {_text(last)} and {_text(base)}"
        last = base
        for record in segment.records():
            if record.before != last:
                yield f"{name}: entries are missing between {_text(last)} and {_text(record.id)}"
            elif record.fields.get("k") == b"g":
                yield f"{name}: entries may be missing before {_text(record.id)}"
            last = record.id
            yield None
        if segment.damage:
            yield f"{name}: {segment.damage}"
        elif not segment.path.exists():
            last = None
    if base is not None and newest > base:
        yield f"{_text(newest)}.log, the newest file, is missing"
    elif last is not None and closed > last:
        yield f"entries are missing at the end, up to {_text(closed)}"


def _check(log: Path) -> int:
    """Print what is damaged, and where entries are missing; returns 0 if nothing is."""
    found = [*_problems(log)]
    problems = [problem for problem in found if problem is not None]
    if problems:
        # Hubs may be writing: what they have half done looks like damage, but not for long.
        time.sleep(_POLL)
        again = {*_problems(log)}
        problems = [problem for problem in problems if problem in again]
    for problem in problems:
        print(problem)
    count = found.count(None)
    print(f"{count} entries, {len(problems) or 'no'} problems")
    return 1 if problems else 0


def _follow(log: Path) -> int:
    """Print what is appended from now on, until interrupted."""
    last = 0
    for segment in _segments(log):
        last = max([last, *(record.id for record in segment.records())])
    while True:
        segments = _segments(log)
        for segment, after in zip_longest(segments, segments[1:]):
            if after is not None and after.base <= last:
                continue
            for record in segment.records():
                if record.id <= last:
                    continue
                if last not in (0, record.before):
                    print(f"entries are missing between {_text(last)} and {_text(record.id)}", flush=True)
                last = record.id
                print(_line(record), flush=True)
        time.sleep(_POLL)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit code: 1 when ``--check`` finds damage, 2 when there is no log."""
    parser = argparse.ArgumentParser("python -m sse_hub.log", description="Look at a log of Hub('file:…').")
    parser.add_argument("path", type=Path, help="the log's directory: events/default for Hub('file:events')")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--follow", action="store_true", help="print what is appended from now on")
    mode.add_argument(
        "--check", action="store_true", help="say what is damaged or missing; exit code 1 if anything"
    )
    given = parser.parse_args(arguments)
    if not _segments(given.path):
        logs = sorted(str(path) for path in given.path.glob("*") if _segments(path))
        hint = " or ".join(logs) or "the directory that has the *.log files"
        print(f"there is no log in {given.path}: pass {hint}", file=sys.stderr)
        return 2
    if given.follow:
        try:
            return _follow(given.path)
        except KeyboardInterrupt:
            return 0
    return _check(given.path) if given.check else _show(given.path)


if __name__ == "__main__":
    sys.exit(main())
