"""The trace that an event belongs to: W3C Trace Context's ``traceparent`` of OpenTelemetry's active span."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["reader_of_spans"]


def reader_of_spans() -> Callable[[], str | None]:
    """A function that returns the ``traceparent`` of the active span, or None where there is none.

    Raises:
        ImportError: ``opentelemetry-api`` is not installed (``pip install "sse-hub[opentelemetry]"``).
    """
    try:
        from opentelemetry.trace import get_current_span
    except ImportError as error:
        raise ImportError(
            'Hub(trace=True) needs opentelemetry-api: pip install "sse-hub[opentelemetry]"'
        ) from error

    def traceparent() -> str | None:
        # What OpenTelemetry's propagator writes, without its dict and `tracestate`.
        span = get_current_span().get_span_context()
        if not span.is_valid:
            return None
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 0xFF:02x}"

    return traceparent
