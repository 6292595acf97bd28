"""The market: one worker keeps it for all."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sse_hub import BrokerError, Hub, OutcomeUnknown, Publication

from .market import Market, Tick

HEAD_START = 120  # ticks
PATIENCE = 2.0  # seconds in which the last tick is replayed, if there is one

logger = logging.getLogger(__name__)


async def keep_market(hub: Hub, topic: str, pace: float) -> None:
    """Publish prices for ever, in one of the workers. When it ends or dies, another goes on."""

    async def produce(publish: Callable[..., Publication]) -> None:
        last = None if hub.broker is None else await last_tick(hub, topic)

        async def send(tick: Tick) -> None:
            with suppress(OutcomeUnknown):  # It may be out: its number is not given again.
                await publish(topic, tick, event="tick")

        await trade(Market(last), send, pace)

    while True:
        try:
            await hub.once("market", produce)
        except BrokerError as error:
            logger.warning("the market waits for the broker: %s", error)
            await asyncio.sleep(min(1.0, pace))


async def trade(market: Market, publish: Callable[[Tick], Awaitable[None]], pace: float) -> None:
    """A tick every `pace` seconds. A new market has been open for a while, so there is a chart at once."""
    if market.number == 0:
        for steps_ago in range(HEAD_START, 0, -1):
            await publish(market.tick(ago=steps_ago * pace))
    while True:
        await publish(market.tick())
        await asyncio.sleep(pace)


async def last_tick(hub: Hub, topic: str) -> Tick | None:
    """The newest tick of all workers, so that numbers go on, and a page can prove that none is missing."""
    got = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE), hub.subscribe(topic, replay=1) as stream:
            async for chunk in stream:
                got += chunk
                if found := re.search(rb"^event: tick\ndata: (.*)$", got, re.MULTILINE):
                    return Tick.model_validate_json(found[1])
    return None
