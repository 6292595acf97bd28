"""The options of a run, checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

from sse_hub._arguments import check_callback, check_seconds

__all__ = ["ErrorText", "OnFinish", "RunOptions"]

OnFinish: TypeAlias = Callable[..., Awaitable[None] | None]
ErrorText: TypeAlias = Callable[[Exception], str | None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run, as ``Hub.run`` explains them."""

    keep: float
    idle: float | None
    max_bytes: int
    on_finish: OnFinish | None
    error: ErrorText | None

    @classmethod
    def checked(
        cls,
        keep: float,
        idle: float | None,
        max_bytes: int,
        on_finish: OnFinish | None,
        error: ErrorText | None,
    ) -> Self:
        """Return the options, or raise an exception that names the one that breaks a rule."""
        for name, value, least in (("keep", keep, "0 or more"), ("idle", idle, "more than 0")):
            if value is None and name == "idle":
                continue
            seconds = check_seconds(name, value)
            if not 0 <= seconds < float("inf") or (name == "idle" and seconds == 0):
                raise ValueError(f"{name} must be a number of seconds, {least}, not {value}")
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool):
            raise TypeError(f"max_bytes is an int, not {type(max_bytes).__name__}")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if on_finish is not None:
            check_callback("on_finish", on_finish, "run", "events")
        if error is not None:
            check_callback("error", error, "exception")
        return cls(keep, idle, max_bytes, on_finish, error)
