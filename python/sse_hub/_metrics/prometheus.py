"""The metrics of hubs for ``prometheus_client``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sse_hub._metrics.families import FAMILIES, Family, Values, measure
from sse_hub._metrics.workers import Workers
from sse_hub._runs.running_hub import RunningHub

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector as _Base
else:
    try:
        from prometheus_client.registry import Collector as _Base
    except ImportError:
        _Base = object

__all__ = ["Collector"]

_PREFIX = "sse_hub_"


class Collector(_Base):
    """The metrics of hubs, for a registry of ``prometheus_client``; see docs/metrics.md.

    ``REGISTRY.register(Collector(hub))``. Values are read when they are scraped, and cost nothing before.
    May be used from any thread.

    Args:
        hubs: the hubs; their names, which must differ, are the label ``hub``.
        shared: a directory in which the workers of one server find each other's values. A scrape of any
            worker then shows all of them, each with the label ``worker``, the process id. Every worker writes
            its values there every 5 seconds, and is no longer shown 15 seconds after its last write.
            None (default) shows this process alone.

    Raises:
        ImportError: ``prometheus_client`` is not installed (``pip install "sse-hub[prometheus]"``).
        TypeError: no hub was given, or something else.
        ValueError: two hubs have the same name.
        OSError: the directory cannot be created.
    """

    def __init__(self, *hubs: RunningHub, shared: str | os.PathLike[str] | None = None) -> None:
        if _Base is object:
            raise ImportError('Collector needs prometheus_client: pip install "sse-hub[prometheus]"')
        self._hubs = check_hubs("Collector", hubs)
        hubs_by_name = {hub.name: hub for hub in hubs}

        def read() -> dict[str, Values]:
            return {name: measure(hub) for name, hub in hubs_by_name.items()}

        self._read = read
        self._workers = None if shared is None else Workers(shared, read)

    def describe(self) -> Iterable[Metric]:
        """The metrics without their values: a registry refuses a second collector with the same names."""
        return [_empty(family) for family in FAMILIES]

    def collect(self) -> Iterator[Metric]:
        """The metrics with their values."""
        if self._workers is None:
            found = [({"hub": name}, values) for name, values in self._read().items()]
        else:
            found = [
                ({"hub": name, "worker": worker}, values)
                for worker, hubs in self._workers.all()
                for name, values in hubs.items()
            ]
        for family in FAMILIES:
            metric = _empty(family)
            for labels, values in found:
                if family.name in values:  # another version of sse-hub may have written them
                    _add(metric, family, labels, values[family.name])
            yield metric


def check_hubs(where: str, hubs: tuple[RunningHub, ...]) -> tuple[RunningHub, ...]:
    """Return the hubs, or raise an exception that says what is wrong with them."""
    if not hubs:
        raise TypeError(f"{where} needs a hub")
    for hub in hubs:
        if not isinstance(hub, RunningHub):
            raise TypeError(f"{where} takes hubs, not {type(hub).__name__}")
    names = [hub.name for hub in hubs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{where}: two hubs are named {twice[0]!r}: give one of them another name=")
    return hubs


def _empty(family: Family) -> Metric:
    from prometheus_client.core import Metric

    return Metric(_PREFIX + family.name, family.help, family.kind)


def _add(metric: Metric, family: Family, labels: dict[str, str], values: Any) -> None:
    if family.kind == "histogram":
        bounds, counts, total = values
        for bound, count in zip([*map(float, bounds), "+Inf"], counts, strict=True):
            metric.add_sample(f"{metric.name}_bucket", {**labels, "le": str(bound)}, count)
        metric.add_sample(f"{metric.name}_count", labels, counts[-1])
        metric.add_sample(f"{metric.name}_sum", labels, total)
        return
    name = f"{metric.name}_total" if family.kind == "counter" else metric.name
    for value, number in values.items():
        own = {} if family.label is None else {family.label: value}
        metric.add_sample(name, {**labels, **own}, number)
