"""Checks of arguments; the errors name the argument and what it takes, as those of the core do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, TypeVar

__all__ = ["check_callback", "check_flag", "check_flag_if_given", "check_seconds", "check_text"]

_Callback = TypeVar("_Callback", bound=Callable[..., Any])

_PLACEHOLDER = getattr(functools, "Placeholder", partial)  # of `partial`, from Python 3.14 on


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


def check_callback(where: str, given: _Callback, *takes: str, kind: str = "a function") -> _Callback:
    """Return a function that can be called with the arguments named in ``takes``.

    It is refused only if it is certain that the call would fail. This costs little: responses check theirs.
    """
    if not callable(given):
        raise TypeError(f"{where} takes {kind}, not {type(given).__name__}")
    if not _accepts(given, len(takes)):
        rule = f"of ({', '.join(takes)})" if takes else "without arguments"
        raise TypeError(f"{where} takes a function {rule}, not {_shown(given)}")
    return given


def _accepts(given: Any, count: int) -> bool:
    """Whether a call with so many arguments fits; True where that is not known.

    ``inspect.signature`` follows ``__wrapped__`` and ``__signature__``: that of a decorator which passes an
    argument of its own would be the wrong one, and it takes 10 µs. ``isinstance`` believes the ``__class__``
    of mocks and proxies.
    """
    kind = type(given)
    if kind is MethodType:
        return _accepts(given.__func__, count + 1)
    if kind is FunctionType:
        code = given.__code__
        least = code.co_argcount - len(given.__defaults__ or ())
        fits = least <= count and (count <= code.co_argcount or bool(code.co_flags & inspect.CO_VARARGS))
        return fits and code.co_kwonlyargcount <= len(given.__kwdefaults__ or ())
    if issubclass(kind, partial):
        if given.keywords or any(argument is _PLACEHOLDER for argument in given.args):
            return True  # They may fill any parameter.
        return _accepts(given.func, len(given.args) + count)
    # `getattr` would bind it; `inspect.getattr_static` takes 3 µs.
    call = next((vars(owner)["__call__"] for owner in kind.__mro__ if "__call__" in vars(owner)), None)
    return type(call) is not FunctionType or _accepts(call, count + 1)


def _shown(given: Any) -> str:
    """A function as it is declared, without annotations."""
    name = getattr(given, "__name__", type(given).__name__)
    signature = inspect.signature(given, follow_wrapped=False)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return f"{name}{signature.replace(parameters=bare, return_annotation=signature.empty)}"
