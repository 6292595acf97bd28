"""The metrics of a hub: their names and kinds, and their values at a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sse_hub._runs.running_hub import RunningHub

__all__ = ["FAMILIES", "Family", "Histogram", "Values", "measure"]

Numbers: TypeAlias = dict[str, float]
"""Numbers by the value of the family's label; without a label, one number under an empty text."""

Histogram: TypeAlias = tuple[list[float], list[int], float]
"""Bounds, how many observations lie up to each (and, last, all of them), and their sum."""

Values: TypeAlias = dict[str, Any]
"""``Numbers`` or a ``Histogram`` by the family's name: plain data, for JSON."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str | None = None
    unit: str = ""
    read: Callable[[Mapping[str, Any]], Numbers] | None = None
    """How its numbers are read from ``stats()``; None for the number of the same name, and for histograms."""


def _of(name: str) -> Callable[[Mapping[str, Any]], Numbers]:
    return lambda stats: {"": stats[name]}


def _by_path(stats: Mapping[str, Any]) -> Numbers:
    handed = min(stats["handed_off"], stats["subscribers"])
    return {"reactor": handed, "loop": stats["subscribers"] - handed}


def _connected(stats: Mapping[str, Any]) -> Numbers:
    return {} if stats["broker"] is None else {"": float(stats["broker"] == "connected")}


def _ended_runs(stats: Mapping[str, Any]) -> Numbers:
    return {state: count for state, count in stats["runs"].items() if state != "running"}


def _counter(
    name: str, help: str, source: str | Callable[[Mapping[str, Any]], Numbers], label: str | None = None
) -> Family:
    return Family(name, "counter", help, label, read=_of(source) if isinstance(source, str) else source)


def _gauge(
    name: str,
    help: str,
    source: str | Callable[[Mapping[str, Any]], Numbers],
    label: str | None = None,
    unit: str = "",
) -> Family:
    return Family(name, "gauge", help, label, unit, _of(source) if isinstance(source, str) else source)


FAMILIES = (
    _gauge("streams", "Open streams, by who writes them: a reactor or an event loop", _by_path, "path"),
    _counter("streams_opened", "Streams that began", "connected"),
    _counter("stream_ends", "Streams that ended", lambda stats: stats["ends"], "reason"),
    Family("stream_lifetime_seconds", "histogram", "Time from a stream's beginning to its end", unit="s"),
    _counter("streams_resumed", "Clients that came back and received everything they had missed", "resumed"),
    _counter("streams_reset", "Streams that received a stream-reset", "resets"),
    _counter("turned_away", "Newcomers refused at max_subscribers or max_per_user", "turned_away"),
    _counter("events_published", "Events published, broadcast or sent", "published"),
    _counter("events_delivered", "Events given to clients, heartbeats and replayed ones too", "delivered"),
    _counter("events_dropped", "Events dropped by drop_oldest or drop_newest", "dropped"),
    _counter(
        "events_superseded", "Values replaced by a newer one before a client received them", "superseded"
    ),
    _counter("uncompressed_bytes", "Bytes given to compressed streams, before that", "uncompressed_bytes"),
    _counter("compressed_bytes", "Bytes given to compressed streams", "compressed_bytes"),
    _counter("events_undeliverable", "Events sent to a client that was gone", "undeliverable"),
    _counter("heartbeats", "Heartbeats", "heartbeats"),
    _counter("publications_refused", "Publications refused with HubFull", "refused"),
    _counter("publications_failed", "Publications that the broker did not take", "publish_failed"),
    Family(
        "publish_to_write_seconds",
        "histogram",
        "Time from publishing to writing to the last client, once for each batch",
        unit="s",
    ),
    Family("replay_events", "histogram", "Events in a client's replay"),
    _gauge("topics", "Topics", "topics"),
    _gauge("history_events", "Events kept for replay", "history_events"),
    _gauge("history_bytes", "Bytes kept for replay", "history_bytes", unit="By"),
    _gauge("queued_events", "Events in clients' queues", "queued_events"),
    _gauge("queued_bytes", "Bytes in clients' queues", "queued_bytes", unit="By"),
    _gauge("backlog_bytes", "Bytes that the slowest reader has not taken", "backlog_bytes", unit="By"),
    _gauge("initial_waiting", "Streams that wait for their initial events", "initial_waiting"),
    _gauge("broker_connected", "Whether the broker is connected; absent without a broker", _connected),
    _gauge("broker_unsent", "Publications without an answer from the broker", "unsent"),
    Family(
        "broker_lag_seconds",
        "histogram",
        "Time from the broker's id of an event to its arrival, once for each batch",
        unit="s",
    ),
    _counter("hand_offs", "Streams that were handed off", "hand_offs"),
    _counter("hand_offs_refused", "Streams that stayed", lambda stats: stats["stayed"], "why"),
    _gauge("runs_running", "Runs that are running", lambda stats: {"": stats["runs"]["running"]}),
    _counter("runs_ended", "Runs that ended", _ended_runs, "state"),
)
"""Every metric. Labels are bounded: no topic, user or text of the application's is one."""

_HISTOGRAMS = {
    "stream_lifetime_seconds": "lifetime",
    "publish_to_write_seconds": "publish_to_write",
    "replay_events": "replay",
    "broker_lag_seconds": "broker_lag",
}


def measure(hub: RunningHub) -> Values:
    """The values of all metrics of a hub in this process."""
    stats, histograms = hub.stats(), hub._histograms()
    return {
        family.name: histograms[_HISTOGRAMS[family.name]] if family.read is None else family.read(stats)
        for family in FAMILIES
    }
