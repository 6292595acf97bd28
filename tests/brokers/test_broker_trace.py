"""The trace of an event over a broker: in the log, at every worker, and replayed."""

from __future__ import annotations

from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider
from redis_workers import Listener, Pair, listening
from sse_hub import Hub
from stores import Store
from waiting import PATIENCE

tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def traces(client: Listener, count: int) -> list[str | None]:
    return [client.event().traceparent for _ in range(count)]


def test_the_trace_of_an_event_reaches_every_worker_and_is_replayed(store: Store, pair: Pair) -> None:
    """The workers' own hubs do not trace: they pass on what the log has."""
    a, b = pair.hubs(store.url)
    with Hub(store.url, name=pair.name, trace=True) as hub, listening(a.listen(), b.listen()) as clients:
        first = hub.publish("t", 1).result(PATIENCE)
        with tracer.start_as_current_span("asks"):
            hub.publish("t", 2, event="tick", comment="why").result(PATIENCE)
            carrier: dict[str, str] = {}
            inject(carrier)
        hub.publish("t", 3).result(PATIENCE)
        expected = [carrier["traceparent"], None]
        for client in clients:
            assert traces(client, 3) == [None, *expected]
        # What the workers had in memory is gone: the events come from the log.
        b.close()
        with listening(b.worker.hub(store.url, pair.name).listen(last_event_id=str(first))) as (back,):
            assert traces(back, 2) == expected
