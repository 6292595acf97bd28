"""What was in a log, and for whom: storms compare every client's record with it."""

from __future__ import annotations

from bisect import bisect_right

from redis_server import EntryId, entry_id
from redis_walker import NONE, TOPICS, Walker


class Truth:
    """The entries of a log, also those that it no longer keeps."""

    def __init__(self) -> None:
        self.topics: dict[int, frozenset[str] | None] = {}  # of each event by its number; None: everybody
        self.ids: list[EntryId] = []
        self.numbers: list[int] = []

    def index(self) -> None:
        """Where each topic's events are, once all is over."""
        self.where: dict[str, list[EntryId]] = {topic: [] for topic in TOPICS}
        for id, number in zip(self.ids, self.numbers, strict=True):
            for topic in TOPICS if (topics := self.topics[number]) is None else topics:
                self.where[topic].append(id)
        self.number = dict(zip(self.ids, self.numbers, strict=True))

    def between(self, after: EntryId, until: EntryId, topics: list[str]) -> set[EntryId]:
        """What a client of these topics is to get of what lies behind ``after``, up to ``until``."""
        found: set[EntryId] = set()
        for topic in topics:
            ids = self.where[topic]
            found.update(ids[bisect_right(ids, after) : bisect_right(ids, until)])
        return found


class Checked(Walker):
    """A walker whose record is compared with the log."""

    def check(self, truth: Truth) -> None:
        """The record against the log: each step of the client's position is complete, or was announced."""
        last = NONE
        placed = False  # whether it has a position from which nothing may be missing
        for name, id, number in self.record:
            at = entry_id(id) if id else last
            match name:
                case "stream-open":
                    assert not placed or at == last, f"opens at {at}, reported was {last}"
                    last, placed = at, placed or bool(id)
                case "stream-reset":
                    # What it may have missed lies up to where it goes on: this id, or the next one.
                    assert at >= last, f"reset to {at} behind {last}"
                    last, placed = at, at > last
                case "stream-cursor":
                    assert at >= last, f"cursor {at} after {last}"
                    if placed:
                        self.complete(truth, last, at)
                    last, placed = at, True
                case _:
                    assert at > last, f"{at} after {last}: twice, or out of order"
                    assert truth.number.get(at) == number, f"{at} is not {number} in the log"
                    topics = truth.topics[number]
                    assert topics is None or topics & {*self.topics}, f"{at} was for {topics}"
                    if placed:
                        self.complete(truth, last, at, but=at)
                    last, placed = at, True

    def complete(self, truth: Truth, after: EntryId, until: EntryId, but: EntryId = NONE) -> None:
        missing = truth.between(after, until, self.topics) - {but}
        assert not missing, f"a silent gap between {after} and {until}: {sorted(missing)[:5]}"
