"""The parts of ``sse_hub.testing``."""
