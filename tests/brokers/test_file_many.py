"""A log of many entries: whoever comes, and however far behind, gets all of it, in order and once.

``SSE_HUB_ENTRIES=1000000`` is the full test.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
from typing import Any

import pytest
from file_server import FileServer
from sse_hub import Hub
from sse_hub.log import main
from waiting import PATIENCE

ENTRIES = int(os.environ.get("SSE_HUB_ENTRIES", "20000"))
BATCH = 500
# The files keep all of it; a process keeps little in memory.
OPTIONS: Any = {"history": ENTRIES, "history_bytes": 1 << 20, "history_total_bytes": 4 << 20}
NUMBER = re.compile(rb"^data: (\d+)$", re.MULTILINE)
# The most that reading it may take, with the numbers that this test collects.
MEMORY = 300 << 20


async def numbers(hub: Hub, last_event_id: str | None, end: int) -> list[int]:
    """What a client gets up to this number."""
    got: list[int] = []
    rest = b""
    async with hub.subscribe("t", last_event_id=last_event_id, replay="all") as stream:
        async with asyncio.timeout(20 * PATIENCE):
            while not got or got[-1] != end:
                whole, _, rest = (rest + await anext(stream)).rpartition(b"\n\n")
                got += map(int, NUMBER.findall(whole))
                assert b"stream-reset" not in whole
    return got


@pytest.mark.timeout(1800)
async def test_a_log_of_many_entries_is_read_whole(
    files: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Hub(files.url, **OPTIONS) as hub:
        first = str(await hub.publish("t", 0))
        for start in range(1, ENTRIES, BATCH):
            batch = [hub.publish("t", number) for number in range(start, min(start + BATCH, ENTRIES))]
            for published in batch:
                await published
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    async with Hub(files.url, **OPTIONS) as later:
        assert await numbers(later, first, ENTRIES - 1) == [*range(1, ENTRIES)]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 < before + MEMORY
        await later.publish("t", ENTRIES)
        assert await numbers(later, first, ENTRIES) == [*range(1, ENTRIES + 1)]
    assert main([str(files.log()), "--check"]) == 0
    assert capsys.readouterr().out == f"{ENTRIES + 1} entries, no problems\n"
