"""What a process publishes while its hub is only about to join the stream in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from servers import redis_running
from sse_hub import Hub


@pytest.fixture
def redis() -> Iterator[str]:
    with redis_running() as url:
        yield url


async def test_what_is_sent_to_a_client_at_once_reaches_it(redis: str) -> None:
    # A past that takes a while to read: what the newcomers are sent must not be taken for part of it.
    async with Hub(redis) as writer:
        for number in range(1000):
            last = writer.publish("prices", number)
        await last
    for number in range(20):
        async with Hub(redis, grace=0.0) as hub:
            client = hub.subscribe("prices")
            hub.send(client.id, raw_data=f"hello {number}")
            hub.publish("prices", raw_data=f"price {number}")
            received = b""
            async with asyncio.timeout(10):
                async for chunk in client:
                    received += chunk
                    if f"price {number}".encode() in received:
                        break
            assert received.index(f"hello {number}".encode()) < received.index(f"price {number}".encode())


async def test_a_kick_at_once_ends_the_stream(redis: str) -> None:
    for _ in range(20):
        async with Hub(redis, grace=0.0) as hub:
            client = hub.subscribe("prices", user="ann")
            hub.disconnect(user="ann", reason="banned")
            async with asyncio.timeout(10):
                async for _chunk in client:
                    pass
            assert client.closed
