"""The program of docs/metrics.md shows its hub's metrics."""

from __future__ import annotations

from live import serve
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
