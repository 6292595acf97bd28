"""The protocol of everything that ends with its server."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

__all__ = ["Stoppable"]


class Stoppable(Protocol):
    """Streams that end together: one that its server carries, or all that one server handed off for a hub.

    Every method must return at once and must not raise. Each may be called more than once, also after the
    streams have ended. All are called on the loop of the streams' server, with one exception: handed-off
    streams, which need no loop to end, may be ended from any thread.
    """

    @property
    @abstractmethod
    def grace(self) -> float:
        """Seconds the streams may take to end in order; read when their server begins to stop."""

    def stop(self) -> None:
        """Begin to end the streams in order, because their server is stopping."""

    def end(self) -> None:
        """Begin to end the streams in order, and nothing but them: their server and their hub go on."""

    @abstractmethod
    def finished(self) -> bool:
        """Whether every one of the streams has ended."""

    def abort(self) -> None:
        """End the streams now and drop what is still to be sent."""
