"""Checks of arguments; the errors name the argument and what it takes, as those of the core do."""

from __future__ import annotations

__all__ = ["check_flag", "check_flag_if_given", "check_seconds", "check_text"]


def check_text(name: str, given: str) -> str:
    """Return a str that UTF-8 can carry."""
    if not isinstance(given, str):
        raise TypeError(f"{name} is a str, not {type(given).__name__}")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has a lone surrogate, which UTF-8 cannot carry") from error
    return given


def check_flag(name: str, given: bool) -> bool:
    """Return a bool."""
    if not isinstance(given, bool):
        raise TypeError(f"{name} is True or False, not {type(given).__name__}")
    return given


def check_flag_if_given(name: str, given: bool | None) -> bool | None:
    """Return a bool or None."""
    if given is not None and not isinstance(given, bool):
        raise TypeError(f"{name} is True, False or None, not {type(given).__name__}")
    return given


def check_seconds(name: str, given: object) -> float:
    """Return a number, which a bool is not."""
    if not isinstance(given, int | float) or isinstance(given, bool):
        raise TypeError(f"{name} is a number of seconds, not {type(given).__name__}")
    return given
