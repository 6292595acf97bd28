"""Streams that are watched together: which requests share one source."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Generic, TypeVar

from bench.peers.common import text

T = TypeVar("T")


class Groups(Generic[T]):
    """Requests in groups of one size. A group's source begins when all of it have come."""

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[tuple[T, asyncio.Future[int]]] = []

    async def join(self, size: int, mine: T) -> tuple[int, list[T] | None]:
        """The number of the request's group, and for the last to come what each of them has brought."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((mine, future))
        if len(self._waiting) < size:
            return await future, None
        group, self._waiting = self._waiting, []
        number = next(self._numbers)
        for _, waiting in group:
            waiting.set_result(number)
        return number, [brought for brought, _ in group]


async def generate(n: int, size: int, pause: float | None) -> AsyncIterator[str]:
    """The texts, as a language model's tokens come."""
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield text(seq, size)
