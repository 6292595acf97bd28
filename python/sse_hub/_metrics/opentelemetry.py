"""The metrics of hubs as observable instruments of OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from sse_hub._metrics.families import FAMILIES, Family, Values, measure
from sse_hub._metrics.prometheus import check_hubs
from sse_hub._runs.running_hub import RunningHub

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["instrument"]

_PREFIX = "sse_hub."
_FRESH = 0.2  # seconds in which the instruments of one collection share what was read


def instrument(*hubs: RunningHub, meter_provider: MeterProvider | None = None) -> None:
    """Make the metrics of hubs observable instruments of OpenTelemetry; see docs/metrics.md.

    Values are read when they are collected, and cost nothing before. OpenTelemetry has no observable
    histogram: each of ours is three counters, whose names end in ``.bucket`` (with the attribute ``le``),
    ``.count`` and ``.sum``.

    Args:
        hubs: the hubs; their names, which must differ, are the attribute ``hub``.
        meter_provider: where the instruments are made; None for the global one.

    Raises:
        ImportError: ``opentelemetry-api`` is not installed (``pip install "sse-hub[opentelemetry]"``).
        TypeError: no hub was given, or something else.
        ValueError: two hubs have the same name.
    """
    try:
        from opentelemetry.metrics import get_meter
    except ImportError as error:
        raise ImportError(
            'instrument needs opentelemetry-api: pip install "sse-hub[opentelemetry]"'
        ) from error
    source = _Source(check_hubs("instrument", hubs))
    meter = get_meter("sse_hub", meter_provider=meter_provider)
    for family in FAMILIES:
        name = _PREFIX + family.name
        if family.kind == "gauge":
            callbacks = [partial(source.numbers, family)]
            meter.create_observable_gauge(name, callbacks, unit=family.unit, description=family.help)
        elif family.kind == "counter":
            callbacks = [partial(source.numbers, family)]
            meter.create_observable_counter(name, callbacks, unit=family.unit, description=family.help)
        else:
            parts: list[tuple[str, Callable[[Family, CallbackOptions], Iterable[Observation]], str]] = [
                ("bucket", source.buckets, ""),
                ("count", source.count, ""),
                ("sum", source.sum, family.unit),
            ]
            for part, read, unit in parts:
                callbacks = [partial(read, family)]
                meter.create_observable_counter(
                    f"{name}.{part}", callbacks, unit=unit, description=family.help
                )


class _Source:
    """What the instruments read: once for all of them."""

    def __init__(self, hubs: tuple[RunningHub, ...]) -> None:
        self._hubs = hubs
        self._read: list[tuple[str, Values]] = []
        self._until = 0.0

    def _values(self) -> list[tuple[str, Values]]:
        now = time.monotonic()
        if now >= self._until:
            self._read = [(hub.name, measure(hub)) for hub in self._hubs]
            self._until = now + _FRESH
        return self._read

    def numbers(self, family: Family, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for name, values in self._values():
            for value, number in values[family.name].items():
                own = {} if family.label is None else {family.label: value}
                yield Observation(number, {"hub": name, **own})

    def buckets(self, family: Family, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for name, values in self._values():
            bounds, counts, _sum = values[family.name]
            for bound, count in zip([*map(float, bounds), "+Inf"], counts, strict=True):
                yield Observation(count, {"hub": name, "le": str(bound)})

    def count(self, family: Family, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for name, values in self._values():
            yield Observation(values[family.name][1][-1], {"hub": name})

    def sum(self, family: Family, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        for name, values in self._values():
            yield Observation(values[family.name][2], {"hub": name})
