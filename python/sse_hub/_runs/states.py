"""The states of a run, and the formats of its stream."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

__all__ = ["RunFormat", "RunState"]

RunFormat: TypeAlias = Literal["ai-sdk", "openai", "ag-ui"]
"""A protocol that expresses the end of a run's stream."""


class RunState(StrEnum):
    """The state of a run. Members are equal to their text."""

    RUNNING = "running"
    """Its function yields."""
    DONE = "done"
    """Its function returned."""
    FAILED = "failed"
    """Its function raised an exception, or yielded more than ``max_bytes``."""
    STOPPED = "stopped"
    """It was stopped: by ``stop``, by ``idle``, or because the hub or the server closed."""
    LOST = "lost"
    """Its process ended without publishing the run's end."""
