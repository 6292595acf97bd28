"""Why a stream ended: the kind, which is the library's, and the text, which may be the application's."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["EndKind", "EndReason", "end_reason"]


class EndKind(StrEnum):
    """The kind of a stream's end. Members are equal to their text."""

    CLIENT = "client"
    """The client went away."""
    CLOSED = "closed"
    """``Subscription.close`` was called, or the subscription was dropped."""
    KICKED = "kicked"
    """``Hub.disconnect`` was called."""
    OVERFLOW = "overflow"
    """More events waited behind an unfinished write than allowed, and the policy is to disconnect."""
    STALLED = "stalled"
    """The client accepted nothing for ``stall_timeout``."""
    MAX_AGE = "max_age"
    """The stream reached its ``max_age``."""
    EXPIRED = "expired"
    """The stream's ``expires`` was about to come."""
    REVOKED = "revoked"
    """The hub's ``authorize`` no longer allows any of its topics, or has not answered for too long."""
    HUB_CLOSED = "hub_closed"
    """The hub closed."""
    SHUTDOWN = "shutdown"
    """The server is stopping, or ``AppStatus`` says so."""
    ERROR = "error"
    """``initial`` raised an exception."""
    GAP = "gap"
    """The client missed events, and its stream has ``control=False``."""
    ENDED = "ended"
    """All topics of the stream have ended, and the client was sent everything."""


class EndReason(str):
    """Why a stream ended: a str with a ``kind``.

    The text is what the application passed to ``disconnect`` or ``close``, or else the kind's own name. The
    ``kind`` distinguishes a client that was kicked with the text ``"stalled"`` from one that stalled.
    """

    __slots__ = ("kind",)

    kind: EndKind

    def __new__(cls, text: str, kind: EndKind | str) -> Self:
        self = super().__new__(cls, text)
        self.kind = EndKind(kind)
        return self

    def __reduce__(self) -> tuple[type[EndReason], tuple[str, EndKind]]:
        return type(self), (str(self), self.kind)


_OF_KIND = {kind.value: EndReason(kind.value, kind) for kind in EndKind}


def end_reason(text: str, kind: str) -> EndReason:
    """The reason with this text and kind; the same object every time if the application gave no text."""
    return _OF_KIND[kind] if text == kind else EndReason(text, kind)
