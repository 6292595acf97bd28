"""The program of docs/metrics.md shows its hub's metrics."""

from __future__ import annotations

from live import serve
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span
from pages import Block, exercises


@exercises("metrics.md", "Prometheus")
def test_the_metrics_of_the_program_are_those_of_its_hub(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server, server.stream("/events") as events:
        events.opened()
        names["hub"].publish("prices", 1)
        assert events.next().json() == 1
        answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'sse_hub_streams{hub="default",path="reactor"} 1.0' in answer.text
    assert 'sse_hub_events_published_total{hub="default"} 1.0' in answer.text


@exercises("metrics.md", "Traces")
def test_an_event_of_the_program_carries_its_span(block: Block) -> None:
    names = block.run()
    provider = TracerProvider(shutdown_on_exit=False)
    names["tracer"] = provider.get_tracer("test")
    with serve(names["app"]) as server, server.http.stream("GET", "/orders") as response:
        lines = response.iter_lines()
        while next(lines) != "event: stream-open":
            pass
        server.http.post("/orders/7/payment").raise_for_status()
        while not (line := next(lines)).startswith("traceparent: "):
            assert "paid" not in line
        assert next(lines) == 'data: {"id":"7","state":"paid"}'
    context = extract({"traceparent": line.removeprefix("traceparent: ")})
    span = get_current_span(context).get_span_context()
    assert (span.is_valid, span.is_remote, span.trace_flags.sampled) == (True, True, True)
