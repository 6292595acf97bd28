"""Resuming over a broker: on any worker, from its memory or from the stream, complete or announced as not."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from redis_server import entry_id
from redis_workers import Listener, Pair, WorkerHub, listening, takes
from sse_hub import Hub
from stores import Store, publish
from waiting import PATIENCE


@pytest.fixture
def hub(store: Store, pair: Pair) -> Iterator[Hub]:
    """The same hub in the test's process, where it has no clients."""
    with Hub(store.url, name=pair.name, history=10_000) as hub:
        yield hub


def resumed(listener: Listener, data: list[object]) -> None:
    """It gets exactly this, and no reset."""
    with listening(listener):
        takes([listener], data)
        assert listener.resets == []


def test_a_client_resumes_on_another_worker(hub: Hub, store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with listening(a.listen()) as (client,):
        publish(hub, 1, 2, 3)
        takes([client], [1, 2])
        last = client.last_event_id
    publish(hub, 4, 5)
    for worker in (b, a):
        with listening(worker.listen(last_event_id=last)) as (client,):
            takes([client], [3, 4, 5])
            assert client.resets == []
    publish(hub, 6)
    resumed(a.listen(last_event_id=last), [3, 4, 5, 6])


@pytest.mark.parametrize("worker", [0, 1])
def test_a_client_resumes_on_a_worker_that_has_just_started(
    hub: Hub, store: Store, pair: Pair, worker: int
) -> None:
    ids = publish(hub, *range(2500))  # several pages
    fresh = pair.workers[worker].hub(store.url, pair.name, history=10_000)
    with listening(fresh.listen(last_event_id=ids[9])) as (client,):
        published = threading.Thread(target=publish, args=(hub, *range(2500, 3000)))
        published.start()
        takes([client], [*range(10, 3000)])
        published.join()
        assert client.resets == []


def test_a_client_that_was_cut_before_its_first_event_resumes(hub: Hub, store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    publish(hub, 1)
    with listening(a.listen("t")) as (client,):
        opening = client.placed()
    publish(hub, 2, 3)
    resumed(b.listen(last_event_id=opening), [2, 3])


def test_a_client_of_an_empty_stream_resumes(hub: Hub, store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with listening(a.listen()) as (client,):
        opening = client.placed()
    publish(hub, 1)
    resumed(b.listen(last_event_id=opening), [1])


def test_a_client_of_a_quiet_topic_gets_the_hubs_cursor(hub: Hub, store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url)
    with listening(a.listen("quiet"), b.listen("quiet")) as clients:
        last = publish(hub, *range(20))[-1]
        for client in clients:
            while client.last_event_id != last:
                event = client.next()
                assert event.is_comment or event.event == "stream-cursor"
    store.trim(pair.name, keep=0)
    publish(hub, "hello", topics="quiet")
    for worker in (a, b):
        resumed(worker.listen("quiet", last_event_id=last), ["hello"])


def fresh(pair: Pair, store: Store) -> list[WorkerHub]:
    """The hub on workers that know nothing but the stream."""
    return [worker.hub(store.url, pair.name) for worker in pair.workers]


def reset(worker: WorkerHub, last_event_id: str, *before: object, at_once: bool = True) -> None:
    """Whoever comes with this is told that something may be missing, and goes on. What is ``before`` the
    gap may have come by then.
    """
    with listening(worker.listen(last_event_id=last_event_id)) as (client,):
        assert client.until_reset(*before)["requested"] == (last_event_id if at_once else None)
        (id,) = worker.publish(marker := f"after the reset of {client.info}")
        client.until(marker)
        assert client.last_event_id == id


def test_trimmed_events_are_announced_exactly(hub: Hub, store: Store, pair: Pair) -> None:
    ids = publish(hub, *range(10))
    store.trim(pair.name, keep=4)
    for worker in fresh(pair, store):
        resumed(worker.listen(last_event_id=ids[5]), [6, 7, 8, 9])
        resumed(worker.listen(last_event_id=ids[7]), [8, 9])
    for worker in fresh(pair, store):
        reset(worker, ids[4])


def test_nothing_is_missing_when_the_stream_was_emptied_behind_a_client(
    hub: Hub, store: Store, pair: Pair
) -> None:
    ids = publish(hub, 1, 2, 3)
    store.trim(pair.name, keep=0)
    a, b = fresh(pair, store)
    with listening(a.listen(last_event_id=ids[2]), b.listen(last_event_id=ids[2])) as clients:
        publish(hub, 4)
        takes(clients, [4])
        assert [client.resets for client in clients] == [[], []]


def test_an_emptied_stream_resets_clients_that_missed_something(hub: Hub, store: Store, pair: Pair) -> None:
    ids = publish(hub, 1, 2, 3)
    store.trim(pair.name, keep=0)
    for worker in fresh(pair, store):
        reset(worker, ids[1])


def test_a_deleted_entry_is_a_gap(hub: Hub, store: Store, pair: Pair) -> None:
    ids = publish(hub, *range(10))
    store.remove(ids[5], pair.name)
    for worker in fresh(pair, store):
        resumed(worker.listen(last_event_id=ids[6]), [7, 8, 9])
    for worker in fresh(pair, store):
        reset(worker, ids[2], 3, 4, at_once=False)  # found on the way


def test_a_client_of_a_stream_that_was_deleted_is_reset(hub: Hub, store: Store, pair: Pair) -> None:
    ids = publish(hub, 1, 2, 3)
    store.delete(pair.name)
    publish(hub, 4)
    for worker in fresh(pair, store):
        reset(worker, ids[1])


def test_a_client_that_was_cut_before_any_event_of_a_stream_that_was_deleted_is_reset(
    hub: Hub, store: Store, pair: Pair
) -> None:
    workers = pair.hubs(store.url)
    openings = []
    for worker in workers:
        with listening(worker.listen()) as (client,):
            openings.append(client.placed())
    store.delete(pair.name)
    publish(hub, "missed")  # before anybody looked: it names no beginning
    for worker, opening in zip(workers, openings, strict=True):
        with listening(worker.listen(last_event_id=opening)) as (client,):
            client.until_reset()
            publish(hub, f"after {opening}")
            client.until(f"after {opening}")
    for worker in fresh(pair, store):
        reset(worker, openings[0])


def test_a_stream_that_was_deleted_begins_where_no_other_did(hub: Hub, store: Store, pair: Pair) -> None:
    worker, _ = pair.hubs(store.url)
    with listening(worker.listen()) as (client,):
        openings = [client.placed()]
        for _ in range(2):
            store.delete(pair.name)
            client.until_reset()
            openings.append(client.last_event_id)
    assert len({*openings, "0-0"}) == 4
    assert openings[2] == store.last_id(pair.name)
    publish(hub, "new")
    resumed(worker.listen(last_event_id=openings[2]), ["new"])
    for worker in fresh(pair, store):
        resumed(worker.listen(last_event_id=openings[2]), ["new"])
    for worker in fresh(pair, store):
        reset(worker, openings[1])


@pytest.mark.parametrize(
    "id",
    [
        "nonsense",
        "0-0",
        "k3f9x2-1042",
        "1-2-3",
        "-",
        "$",
        "+",
        "0-0-",
        "99999999999999-0",
        "99999999999999999999999-0",
        "1%0d%0a",
        "é",
    ],
)
def test_an_id_that_is_not_the_streams_is_a_reset(hub: Hub, store: Store, pair: Pair, id: str) -> None:
    publish(hub, 1)
    a, _ = pair.hubs(store.url)
    with listening(a.listen(last_event_id=id)) as (client,):
        client.until_reset()
        publish(hub, 2)
        assert client.event().json() == 2


def test_a_newcomer_gets_the_past_it_asks_for(hub: Hub, store: Store, pair: Pair) -> None:
    for n in range(300):
        hub.publish(["t", "even" if n % 2 == 0 else "odd"], n)
    publish(hub, "end", topics="even")
    for worker in fresh(pair, store):
        with listening(worker.listen("even", replay="2"), worker.listen("odd", replay="all")) as (last, odd):
            takes([last], [298, "end"])
            takes([odd], [*range(1, 300, 2)])
            publish(hub, "new", topics="new")
    for worker in fresh(pair, store):
        with listening(worker.listen("even")) as (client,):
            publish(hub, "now", topics="even")
            takes([client], ["now"])


def test_nothing_is_lost_or_repeated_while_clients_hop_between_workers(
    hub: Hub, store: Store, pair: Pair
) -> None:
    hubs = pair.hubs(store.url, history=10_000)
    dice = random.Random(7)
    count = 3000
    over = threading.Event()

    def steadily() -> None:
        for n in range(count):
            hub.publish("t" if n % 3 else "u", n)
            if n % 10 == 0:
                over.wait(0.005)

    with listening(hubs[0].listen("t,u")) as (client,):
        last = client.placed()
    publisher = threading.Thread(target=steadily)
    publisher.start()
    try:
        seen: list[tuple[str, int]] = []
        hops = 0
        while not seen or seen[-1][1] != count - 1:
            worker = hubs[hops % 2]
            hops += 1
            with listening(worker.listen("t,u", last_event_id=last)) as (client,):
                for _ in range(dice.randrange(1, 200)):
                    event = client.event()
                    seen.append((event.id, event.json()))
                    if event.json() == count - 1:
                        break
                assert client.resets == []
                last = client.last_event_id
    finally:
        over.set()
        publisher.join()
    assert [n for _, n in seen] == [*range(count)]
    assert [id for id, _ in seen] == store.ids(pair.name)
    assert [entry_id(id) for id, _ in seen] == sorted(entry_id(id) for id, _ in seen)
    assert hops > 5


def test_events_older_than_history_age_are_not_replayed(hub: Hub, store: Store, pair: Pair) -> None:
    """Redis may have it still: nothing was published since, by which it would be trimmed."""
    with Hub(store.url, name=pair.name) as before:  # which has seen ids that the log no longer has
        ids = publish(before, *range(5))
    aged = store.grow_old(pair.name, 3600)
    last = aged[ids[4]]
    workers = [worker.hub(store.url, pair.name, history_age=600.0) for worker in pair.workers]
    for worker in workers:
        with listening(worker.listen(last_event_id=aged[ids[1]]), worker.listen(last_event_id=last)) as (
            late,
            up,
        ):
            assert late.until_reset()["reason"] == "evicted"
            publish(hub, "new")
            takes([late, up], ["new"])
            assert up.resets == []
            last = up.last_event_id
    patient = pair.workers[0].hub(store.url, pair.name, history_age=7200.0)
    resumed(patient.listen(last_event_id=aged[ids[1]]), [2, 3, 4, "new", "new"])


def test_the_newest_value_of_a_key_is_what_every_worker_keeps(hub: Hub, store: Store, pair: Pair) -> None:
    a, b = pair.hubs(store.url, history=4)
    (first,) = publish(hub, "first")
    with listening(a.listen(), b.listen()) as clients:
        for client in clients:
            client.placed()
        for n in range(100):
            hub.publish("t", n, key=str(n % 3)).result(PATIENCE)
        publish(hub, "last")
        for client in clients:
            client.until("last")
    for worker in (a, b):
        resumed(worker.listen(last_event_id=first), [97, 98, 99, "last"])


def test_values_that_a_fetched_gap_leaves_out_are_counted(hub: Hub, store: Store, pair: Pair) -> None:
    (first,) = publish(hub, "first")
    for n in range(200):
        hub.publish("t", n, key=str(n % 3)).result(PATIENCE)
    publish(hub, "last")
    worker = pair.workers[0].hub(store.url, pair.name, history=1)  # so that it keeps none of them
    with listening(worker.listen(last_event_id=first)) as (client,):
        received = client.until("last")
    assert received[-4:] == [197, 198, 199, "last"]
    assert len(received) < 100
    assert worker.stats()["superseded"] == 201 - len(received)
