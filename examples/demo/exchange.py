"""Who keeps the market: this process, or one worker for all."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sse_hub import BrokerError, Hub, OutcomeUnknown

from .market import Market, Tick

HEAD_START = 120  # ticks
LOCK, LAST = "{sse-hub-demo}:market", "{sse-hub-demo}:tick"
LOCK_SECONDS = 3.0  # at least

logger = logging.getLogger(__name__)


async def run_market(hub: Hub, topic: str, pace: float) -> None:
    """Publish prices for ever, whether anybody looks or not: publishing costs the same."""

    async def publish(tick: Tick) -> None:
        hub.publish(topic, tick, event="tick")

    await trade(Market(), publish, pace)


async def trade(market: Market, publish: Callable[[Tick], Awaitable[None]], pace: float) -> None:
    """A tick every `pace` seconds. A new market has been open for a while, so there is a chart at once."""
    if market.number == 0:
        for steps_ago in range(HEAD_START, 0, -1):
            await publish(market.tick(ago=steps_ago * pace))
    while True:
        await publish(market.tick())
        # redis-py waits with asyncio.wait_for, which in Python 3.11 may lose a cancellation. Without a second
        # look this worker would never stop.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError
        await asyncio.sleep(pace)


async def share_market(broker: str, hub: Hub, topic: str, pace: float) -> None:
    """The same with several workers: one of them trades for all. When it ends or dies, another goes on.

    Who trades holds a lock in Redis, which runs out unless it is renewed. The last tick is kept there too, so
    that numbers go on, and a page can prove that none is missing.
    """
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    # The same protocol; redis-py does not know the name.
    url = broker.replace("valkey", "redis", 1) if broker.startswith("valkey") else broker
    seconds = max(LOCK_SECONDS, 3 * pace)
    while True:
        try:
            async with Redis.from_url(url) as store, store.lock(LOCK, timeout=seconds) as lock:
                last: Any = await store.get(LAST)

                async def publish(tick: Tick, store: Any = store, lock: Any = lock) -> None:
                    await lock.reacquire()
                    with suppress(OutcomeUnknown):  # It may be out: its number is not given again.
                        await hub.publish(topic, tick, event="tick")
                    await store.set(LAST, tick.model_dump_json())

                market = Market(None if last is None else Tick.model_validate_json(last))
                await trade(market, publish, pace)
        except (RedisError, BrokerError) as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from error  # The lock could not be given back: it runs out.
            logger.warning("the market waits for Redis: %s", error)
            await asyncio.sleep(min(1.0, pace))
