"""What a process publishes at once, and while its hub is only about to join the broker's stream."""

from __future__ import annotations

import asyncio

from sse_hub import Hub
from stores import Store
from waiting import PATIENCE


async def test_what_is_sent_to_a_client_at_once_reaches_it(store: Store) -> None:
    # A past that takes a while to read: what the newcomers are sent must not be taken for part of it.
    async with Hub(store.url) as writer:
        for number in range(1000):
            last = writer.publish("prices", number)
        await last
    for number in range(20):
        async with Hub(store.url, grace=0.0) as hub:
            client = hub.subscribe("prices")
            hub.send(client.id, raw_data=f"hello {number}")
            hub.publish("prices", raw_data=f"price {number}")
            received = b""
            async with asyncio.timeout(PATIENCE):
                async for chunk in client:
                    received += chunk
                    if f"price {number}".encode() in received:
                        break
            assert received.index(f"hello {number}".encode()) < received.index(f"price {number}".encode())


async def test_a_kick_at_once_ends_the_stream(store: Store) -> None:
    for _ in range(20):
        async with Hub(store.url, grace=0.0) as hub:
            client = hub.subscribe("prices", user="ann")
            hub.disconnect(user="ann", reason="banned")
            async with asyncio.timeout(PATIENCE):
                async for _chunk in client:
                    pass
            assert client.closed


async def test_many_at_once_each_have_their_own_id_and_keep_their_order(store: Store) -> None:
    numbers = [str(number) for number in range(1000)]
    # Nothing is read before all is published, and a consumer that stays away counts as slow.
    async with Hub(store.url, grace=0.0, capacity=2000) as hub:
        client = hub.subscribe("prices")
        publications = [hub.publish("prices", raw_data=number) for number in numbers]
        ids = await asyncio.gather(*publications)
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b"data: 999\n" not in received:
                received += await anext(client)
        frames = received.decode().split("\n\n")
        got = [frame.splitlines() for frame in frames if "\ndata: " in frame and "event:" not in frame]
        assert got == [[f"id: {id}", f"data: {number}"] for id, number in zip(ids, numbers, strict=True)]
