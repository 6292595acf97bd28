"""The metrics of hubs, for Prometheus and OpenTelemetry; docs/metrics.md lists them.

::

    from prometheus_client import REGISTRY
    from sse_hub.metrics import Collector

    REGISTRY.register(Collector(hub))
"""

from sse_hub._metrics.opentelemetry import instrument
from sse_hub._metrics.prometheus import Collector

__all__ = ["Collector", "instrument"]
