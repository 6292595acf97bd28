"""What clients see when the log lost events: a ``stream-reset``, and never a silent gap."""

from __future__ import annotations

import time

import pytest
from redis_outage import are, reset_once_and_on, scene
from redis_workers import Pair, takes
from stores import Store
from waiting import promised


@pytest.mark.parametrize("clock", ["goes on", "was set back"])
def test_everything_is_deleted_while_hubs_are_connected(store: Store, pair: Pair, clock: str) -> None:
    if clock == "was set back":
        store.clock_ahead(pair.name)
    with scene(pair, store.url) as (hubs, clients):
        store.empty()
        deleted = time.monotonic()
        for client in clients:
            client.until_reset()
        assert time.monotonic() - deleted < promised(5)
        hubs[0].publish("anew")
        takes(clients, ["anew"])
        for client in clients:
            assert client.resets == []


def test_everything_is_deleted_and_published_anew_at_once(store: Store, pair: Pair) -> None:
    """With ids that go on growing: only the chain shows it."""
    with scene(pair, store.url) as (hubs, clients):
        store.empty()
        hubs[0].publish("anew")
        for client in clients:
            client.until_reset()
        takes(clients, ["anew"])
        hubs[1].publish("and on")
        takes(clients, ["and on"])
        for client in clients:
            assert client.resets == []


def test_trimmed_behind_readers_that_have_everything(store: Store, pair: Pair) -> None:
    with scene(pair, store.url) as (hubs, clients):
        store.trim(pair.name, keep=0)
        published = [*hubs[0].publish(1), *hubs[1].publish(2)]
        for client in clients:
            assert [client.event().id for _ in published] == published
            client.heartbeat()
            assert client.resets == []


def test_the_newest_event_was_not_on_disk(store: Store, pair: Pair) -> None:
    """Redis is killed and starts with an older disk; an older copy of the files is put back."""
    with scene(pair, store.url) as (hubs, clients):
        hubs[0].publish("kept", "kept too")
        disk = store.keep_disk()
        (lost,) = hubs[1].publish("lost")
        takes(clients, ["kept", "kept too", "lost"])
        if store.kind == "redis":
            store.kill()
            are(hubs, "disconnected")
        store.restart_with(disk)
        reset_once_and_on(store, pair, hubs, clients, lost)
