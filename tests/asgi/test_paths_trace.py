"""The trace of an event, through real sockets and on both paths."""

from __future__ import annotations

from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider
from wire import WAYS, Site

SITES = tuple(WAYS)

tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def test_an_event_carries_the_span_in_which_it_was_published(site: Site) -> None:
    hub = site.hub(trace=True)
    carrier: dict[str, str] = {}
    with site.stream(hub) as stream:
        hub.publish("t", 1)
        with tracer.start_as_current_span("asks"):
            hub.publish("t", 2, event="tick")
            inject(carrier)
        assert stream.event().traceparent is None
        event = stream.event()
        assert (event.data, event.event, event.traceparent) == ("2", "tick", carrier["traceparent"])
    with tracer.start_as_current_span("asks"):
        hub.publish("t", 3)
        inject(carrier)
    with site.stream(hub, client={"last_event_id": event.id}) as back:
        assert back.event().traceparent == carrier["traceparent"]
