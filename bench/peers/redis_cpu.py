"""What Redis itself computes while events are published: it is a part of the price."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

URL = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379")
# Its default of 100 connections is fewer than there are clients, with one for each.
redis = Redis.from_url(URL, decode_responses=True, max_connections=10_000)


async def _cpu() -> float:
    info = await redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def with_redis_cpu(publishing: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Publish, and add to the answer Redis's CPU time for each event, in microseconds."""
    before = await _cpu()
    answer = await publishing()
    return answer | {"redis_us": (await _cpu() - before) * 1e6 / answer["n"]}
