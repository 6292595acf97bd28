"""Values of keys: of what waits and what is kept, only the newest of each key and topic."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_reader import stop_reading
from sse_hub import Hub, InvalidEvent, ServerSentEvent
from sse_hub.testing import Clock, EventClient, connect


async def opened(hub: Hub, **options: Any) -> EventClient:
    client = await connect(hub.endpoint("t", **options), "/", control=True)
    assert (await client.next()).event == "stream-open"
    return client


async def test_only_the_newest_value_waits_for_a_slow_client(clock: Clock) -> None:
    hub = clock.hub(capacity=5)
    client = await opened(hub)
    await stop_reading(clock, hub, client)
    for n in range(1000):
        hub.publish("t", n, key=f"k{n % 4}")
        if n == 500:
            hub.publish("t", "between")
    await clock.advance(0)
    stats = hub.stats()
    assert (stats["superseded"], stats["dropped"], stats["overflowed"]) == (996, 0, 0)
    client.resume()
    assert [event.json() for event in await client.take(6)] == ["taken", "between", 996, 997, 998, 999]
    await client.close()


async def test_a_table_is_what_history_keeps(clock: Clock) -> None:
    hub = clock.hub(history=1000, history_age=60.0)
    for n in range(20_000):
        hub.publish("t", n, key=str(n % 1000))
    assert hub.stats()["history_events"] == 1000
    await clock.advance(120.0)
    client = await connect(hub.endpoint("t", replay="all"), "/", control=True)
    opening = await client.next()
    assert (opening.event, opening.data) == ("stream-open", ""), "complete, although it is old"
    assert [event.json() for event in await client.take(1000)] == list(range(19_000, 20_000))
    await client.close()


async def test_who_resumes_gets_the_newest_of_what_changed_and_no_reset() -> None:
    hub = Hub(history=10)
    client = await opened(hub)
    hub.publish("t", ["gold", 0], key="gold")
    hub.publish("t", ["tin", 0], key="tin")
    assert [event.json() for event in await client.take(2)] == [["gold", 0], ["tin", 0]]
    await client.close()
    for n in range(1, 10_000):
        hub.publish("t", ["gold", n], key="gold")
    hub.publish("t", ["zinc", 0], key="zinc")
    await client.reconnect()
    assert (await client.next()).event == "stream-open"
    assert [event.json() for event in await client.take(2)] == [["gold", 9999], ["zinc", 0]]
    await client.close()


async def test_a_value_that_the_limits_evicted_is_lost_and_announced() -> None:
    hub = Hub(history=3)
    client = await opened(hub)
    hub.publish("t", 0, key="0")
    assert (await client.next()).json() == 0
    await client.close()
    for n in range(1, 6):
        hub.publish("t", n, key=str(n))
    await client.reconnect()
    assert [event.event for event in await client.take(2)] == ["stream-open", "stream-reset"]
    assert [event.json() for event in await client.take(3)] == [3, 4, 5]
    await client.close()


async def test_topics_and_clients_have_keys_of_their_own(clock: Clock) -> None:
    hub = clock.hub()
    client = await connect(hub.endpoint(["t", "u"], info="me"), "/", control=True)
    await client.next()
    (subscriber,) = hub.subscribers()
    await stop_reading(clock, hub, client)
    hub.publish("t", 1, key="k")
    hub.publish("u", 2, key="k")
    hub.publish(["t", "u"], 3, key="k")
    hub.publish("t", 4, key="k")
    hub.broadcast(5, key="k")
    hub.broadcast(6, key="k")
    subscriber.send(7, key="k")
    subscriber.send(8, key="k")
    hub.send(subscriber.id, ServerSentEvent("9"), key="k")
    await clock.advance(0)
    client.resume()
    assert (await client.next()).json() == "taken"
    assert [event.json() for event in await client.take(4)] == [3, 4, 6, 9]
    assert hub.stats()["superseded"] == 5
    await client.close()


@pytest.mark.parametrize(
    ("key", "because"),
    [("", "key is empty"), ("é" * 128, "key has 256 bytes"), ("\ud800", "lone surrogate")],
)
async def test_a_wrong_key_is_an_error_and_nothing_is_published(key: str, because: str) -> None:
    hub = Hub()
    with pytest.raises(InvalidEvent, match=because):
        hub.publish("t", 1, key=key)
    with pytest.raises(TypeError):
        hub.publish("t", 1, key=b"k")  # type: ignore[arg-type]
    assert hub.stats()["published"] == 0


async def follow(client: EventClient, table: dict[str, int], wanted: dict[str, int]) -> None:
    """Read until the client's table is the wanted one; a table never goes back."""
    while table != wanted:
        event = await client.next()
        if event.event == "message":
            key, value = event.json()
            assert value > table.get(key, -1), "values of a key come in order, each once"
            table[key] = value


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
async def test_any_interleaving_ends_with_equal_tables(seed: int) -> None:
    chance = random.Random(seed)
    clock = Clock()
    hub = clock.hub(history=8, capacity=8)
    truth: dict[str, int] = {}
    clients = [(await opened(hub), dict[str, int]()) for _ in range(3)]
    for n in range(chance.randrange(20, 200)):
        key = str(chance.randrange(8))
        truth[key] = n
        hub.publish("t", [key, n], key=key)
        client, table = chance.choice(clients)
        match chance.randrange(8):
            case 0:
                client.pause()
            case 1:
                client.resume()
            case 2:
                await client.reconnect()
            case 3:
                client.resume()
                await follow(client, table, truth)
            case _:
                await clock.advance(0.01)
    for client, table in clients:
        client.resume()
        await follow(client, table, truth)
        await client.close()
    newcomer = await opened(hub, replay="all")
    await follow(newcomer, {}, truth)
    await newcomer.close()
    assert hub.stats()["resets"] == 0
