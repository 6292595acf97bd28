"""What every peer shares: the events' text and the pace at which they are published.

An event's data is `SEQ NS xxx…`: a number that rises by one, the publisher's monotonic clock in nanoseconds,
and padding. The load generator checks all three.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

PADDING = "x" * 65536


def text(seq: int, size: int) -> str:
    """The data of event number `seq`, stamped now; `size` characters, all ASCII."""
    head = f"{seq} {time.monotonic_ns()} "
    return head + PADDING[: size - len(head)]


def tick(seq: int, size: int) -> str:
    """Text like a price that changes, stamped in microseconds: what a ticker sends."""
    price, change = 2400 + seq * 7919 % 1000 / 100, (seq * 104729 % 2000 - 1000) / 1e5
    symbol = ("GOLD", "SILVER", "COPPER", "TIN")[seq % 4]
    head = f"{seq} {time.monotonic_ns() // 1000 * 1000} "
    row = f'{{"symbol":"{symbol}","price":{price:.2f},"change":{change:.5f}}}'
    return f"{head}{row:<{size - len(head)}}"[:size]


def table(seq: int, size: int) -> str:
    """Text like a table that is sent again with one more row changed."""

    def value(row: int) -> float:
        """It changes once in 40 events."""
        return ((seq - row) // 40 * 40 + row) * 7919 % 10000 / 100

    rows = (f'{{"row":{row},"name":"gauge {row}","value":{value(row):.2f}}}' for row in range(40))
    head = f"{seq} {time.monotonic_ns() // 1000 * 1000} "
    return f"{head}[{','.join(rows)}]".ljust(size)[:size]


class Publisher:
    """Numbers events, publishes them at a steady pace, and times what `publish` costs its caller.

    `encode` hands the text over as UTF-8 bytes. `awaits`: what `publish` returns is awaited, and not timed.
    `after` is awaited behind each batch. `make` makes the text of an event from its number and its size.
    """

    def __init__(
        self,
        publish: Callable[[Any], Any],
        *,
        encode: bool = False,
        awaits: bool = False,
        after: Callable[[], Awaitable[None]] | None = None,
        make: Callable[[int, int], str] = text,
    ) -> None:
        self._publish = publish
        self._encode = encode
        self._awaits = awaits
        self._after = after
        self._make = make
        self.next = 0

    async def run(self, n: int, rate: float, size: int, batch: int) -> dict[str, Any]:
        """Publish `n` events of `size` bytes, `batch` at a time, `rate` a second (0: without a pause).

        Returns the CPU time of this thread per call, one number for each batch.
        """
        first, publish = self.next, self._publish
        costs: list[float] = []
        begin = time.monotonic()
        for start in range(0, n, batch):
            texts: Sequence[str | bytes] = [
                self._make(self.next + i, size) for i in range(min(batch, n - start))
            ]
            if self._encode:
                texts = [data.encode() for data in texts if isinstance(data, str)]
            self.next += len(texts)
            before = time.thread_time_ns()
            for data in texts:
                made = publish(data)
                if self._awaits:
                    await made
            if not self._awaits:
                costs.append((time.thread_time_ns() - before) / len(texts))
            if self._after is not None:
                await self._after()
            # Against the clock, not from one sleep to the next: a slow server does not slow the pace.
            due = begin + (start + batch) / rate if rate else 0.0
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return {"first": first, "n": n, "publish_cpu_ns": costs}


def query(scope: Any) -> dict[str, str]:
    """The query parameters of a raw ASGI scope."""
    return dict(parse_qsl(scope["query_string"].decode()))
