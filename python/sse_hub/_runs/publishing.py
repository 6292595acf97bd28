"""Publishes what a run's generator yields: in this process alone, or over a broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from sse_hub._core import Publication, RunPump
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.options import RunOptions
from sse_hub.exceptions import HubError, HubFull, RunTooLarge

__all__ = ["PATIENCE", "RunPublisher"]

PATIENCE = 0.01  # seconds between two attempts to publish while delivery is behind
_AHEAD = 64  # events that may wait for the broker's answer
_BURST = 32  # events after which the loop's other tasks get a turn, however fast the generator is


class RunPublisher:
    """Publishes the events of one run, on its loop.

    ``mark`` is as for the run's driver.
    """

    def __init__(
        self,
        hub: StreamingHub,
        name: str,
        source: AsyncIterator[Any],
        options: RunOptions,
        mark: str | int,
    ) -> None:
        self._hub = hub
        self._name = name
        self._source = source
        self._limit = self._room = options.max_bytes
        self._mark = mark
        self._pump: RunPump | None = None
        self._unsettled: deque[Publication] = deque()
        self._is_stopped = False
        self._keeps = options.on_finish is not None
        self.events: list[Any] = []  # for `on_finish`

    async def publish(self) -> None:
        """Publish until the generator returns.

        Raises:
            Exception: the generator's own.
            RunTooLarge: it yields more than ``max_bytes``.
            BrokerError: the broker did not accept an event, which would be a gap in the run.
            HubClosed, TopicEnded, LeaseLost: it is no longer this process's to publish.
        """
        mark = self._mark
        await (self._publish_over_broker(mark) if isinstance(mark, str) else self._publish_alone(mark))

    def stop(self) -> None:
        """Take nothing more from the generator."""
        self._is_stopped = True
        if self._pump is not None:
            self._pump.end()

    async def settle(self) -> None:
        """Wait for the events of a run that failed or was stopped: their outcome no longer matters."""
        while self._unsettled:
            with suppress(HubError):
                await self._unsettled.popleft()

    async def _publish_alone(self, run: int) -> None:
        published = self.events if self._keeps else None
        self._pump = pump = RunPump(self._hub, self._name, run, self._source, self._room, published)
        while (unpublished := await pump) is not None:
            # While delivery is behind; nothing announces that it has caught up.
            while (is_published := pump.publish(unpublished[0])) is None:  # noqa: ASYNC110
                await asyncio.sleep(PATIENCE)
            if not is_published:
                raise self._too_large()

    async def _publish_over_broker(self, token: str) -> None:
        name, publish = self._name, self._hub._publish_part
        unsettled = self._unsettled
        count = 0
        # Without a coroutine for each event, which costs as much as publishing it.
        async for value in self._source:
            if self._is_stopped:
                return
            try:
                published = publish(name, value, self._room, token)
            except HubFull:
                published = await self._publish_later(value, token)
            if published is None:
                raise self._too_large()
            self._room -= published[1]
            if self._keeps:
                self.events.append(value)
            unsettled.append(published[0])
            if len(unsettled) > _AHEAD:
                # One wait for many: answers come in the order of the events.
                await unsettled[_AHEAD // 2]
            while unsettled and unsettled[0].done():
                # An event that the broker did not accept would be a gap in the run, so the run fails.
                await unsettled.popleft()
            count += 1
            if count % _BURST == 0:
                await asyncio.sleep(0)
        while unsettled:
            await unsettled.popleft()

    async def _publish_later(self, value: Any, token: str) -> tuple[Publication, int] | None:
        while True:
            await asyncio.sleep(PATIENCE)
            try:
                return self._hub._publish_part(self._name, value, self._room, token)
            except HubFull:
                continue

    def _too_large(self) -> RunTooLarge:
        return RunTooLarge(
            f"run {self._name!r} yields more than max_bytes={self._limit}; its last event was not published"
        )
