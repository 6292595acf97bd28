"""A generator with more events than a small window takes, and the check that it was held back."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable

from let_go import read_to_end

EVENTS = 20_000


class Many:
    """A generator that counts the events it has made."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self) -> AsyncIterator[str]:
        for number in range(EVENTS):
            self.made += 1
            yield f"{number} {'x' * 500}"
            if number % 100 == 0:
                await asyncio.sleep(0)


def check_held_back(content: Many, slow: socket.socket, ask: Callable[[], object]) -> None:
    """The generator waits for the client, which then receives all events in order, and the body's end.

    ``ask`` has the server answer another request.
    """
    seen = -1
    # It makes what the kernel and the transport hold, and then waits.
    while seen != content.made or content.made == 0:
        seen = content.made
        ask()
        threading.Event().wait(0.2)
    assert 0 < seen < EVENTS
    received = read_to_end(slow)
    lines = [line for line in received.split(b"\n") if line.startswith(b"data: ")]
    assert [int(line[6:].split()[0]) for line in lines] == list(range(EVENTS))
    assert received.endswith(b"0\r\n\r\n")
