"""Whether a response's body is compressed: the option, what the client accepts, and middleware in between."""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

from starlette.types import Scope, Send

from sse_hub._arguments import check_flag_if_given

__all__ = ["CONTENT_ENCODING", "can_compress", "check_compress"]

CONTENT_ENCODING = (b"content-encoding", b"gzip")
"""The header of a compressed body."""

# Middleware that compresses bodies which are compressed already, and overwrites the header that says so.
_RECODING = "brotli_asgi"
_WRAPPERS = 32  # around `send`


def check_compress(given: bool | None, default: bool) -> bool:
    """The option ``compress``, or what holds without it."""
    given = check_flag_if_given("compress", given)
    return default if given is None else given


def can_compress(scope: Scope, send: Send) -> bool:
    """Whether the client accepts gzip, and gets it."""
    return _accepts_gzip(scope) and not _is_recoded(scope, send)


def _accepts_gzip(scope: Scope) -> bool:
    """Whether the request accepts gzip, and does not prefer a body without it (RFC 9110, 12.5.3)."""
    weights: dict[str, float] = {}
    for name, value in scope.get("headers", ()):
        if name.lower() == b"accept-encoding":
            for part in value.decode("latin-1").lower().split(","):
                coding, *parameters = (word.strip() for word in part.split(";"))
                weights[coding] = _weight(parameters)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0  # not a weight: better no compression than a body that the client cannot read
    return 1.0


def _is_recoded(scope: Scope, send: Any) -> bool:
    """Whether there is such middleware: among the application's, or around ``send``."""
    for middleware in getattr(scope.get("app"), "user_middleware", ()):
        if getattr(getattr(middleware, "cls", None), "__module__", None) == _RECODING:
            return True
    for _ in range(_WRAPPERS):
        if isinstance(send, partial):
            send = send.keywords.get("send")
        elif isinstance(send, MethodType):
            if type(send.__self__).__module__ == _RECODING:
                return True
            send = getattr(send.__self__, "send", None)
        elif isinstance(send, FunctionType):
            cells = zip(send.__code__.co_freevars, send.__closure__ or (), strict=True)
            send = next((cell.cell_contents for name, cell in cells if name == "send"), None)
        else:
            return False
    return False
