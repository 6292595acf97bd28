"""What happens while the store stands still: Redis is stopped, or a process has the log in files locked."""

from __future__ import annotations

import time

from redis_outage import BROKER, are, early, first, publisher
from redis_workers import Pair, Worker, app_command, listening
from servers import run
from sse_hub import Hub
from stores import Store
from waiting import PATIENCE, promised


def test_what_is_published_in_a_short_outage_is_written_after_it(store: Store) -> None:
    with Hub(store.broker(timeout=PATIENCE)) as hub:
        first(hub)
        store.pause()
        waiting = [hub.publish("t", n) for n in range(100)]
        store.resume()
        assert [one.result() for one in waiting] == store.ids()[1:]


def test_a_worker_that_starts_while_the_store_stands_still_serves_after_it(store: Store, pair: Pair) -> None:
    with publisher(store, pair) as elsewhere:
        ids = [elsewhere.publish("t", n).result(PATIENCE) for n in range(5)]
        store.pause()
        hubs = [*pair.hubs(store.url, broker=BROKER)]
        with early(hubs, ids, elsewhere) as clients:
            for client in clients:
                client.opened()  # although nothing is known yet
            store.resume()
            are(hubs, "connected")


def test_a_server_stops_although_the_store_stands_still(store: Store) -> None:
    with run(app_command()) as process:
        worker = Worker(process)
        hub = worker.hub(store.url, "default", broker=BROKER)
        with listening(hub.listen()):
            store.pause()
            process.terminate()
            began = time.monotonic()
            assert process.wait() in (0, -15)
            assert time.monotonic() - began < promised(5)
        worker.http.close()
        assert "lifespan ended" in process.output
        assert "Traceback" not in process.output
