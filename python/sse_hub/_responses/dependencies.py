"""FastAPI's dependencies with ``yield``, closed before a stream ends.

FastAPI keeps them in exit stacks in the request's scope and closes these when the response has been sent. For
a stream, that is when its client leaves, so a dependency that holds a database connection would hold it for
hours. An exit stack that was closed is empty, so FastAPI itself has nothing left to close.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack

from starlette.types import Scope

__all__ = ["close_dependencies", "has_dependencies"]

logger = logging.getLogger("sse_hub")

# In the order in which FastAPI closes them. It closes the first before it sends the response.
_STACKS = ("fastapi_function_astack", "fastapi_inner_astack")


def has_dependencies(scope: Scope) -> bool:
    """Whether the endpoint has dependencies to close."""
    return any(map(_has_callbacks, _stacks(scope)))


def _has_callbacks(stack: AsyncExitStack) -> bool:
    # An attribute that the standard library's own subclasses share; without it, assume that there are some.
    return bool(getattr(stack, "_exit_callbacks", True))


async def close_dependencies(scope: Scope) -> None:
    """Close the endpoint's dependencies.

    Call it in the request's task, which has their cancel scopes and contexts. A dependency that fails is
    logged: its response has begun, and the stream does not need it.
    """
    for stack in _stacks(scope):
        if not _has_callbacks(stack):
            continue
        try:
            await stack.aclose()
        except Exception:
            logger.exception("a dependency failed when it was closed; its stream goes on")


def _stacks(scope: Scope) -> Iterator[AsyncExitStack]:
    for name in _STACKS:
        stack = scope.get(name)
        if isinstance(stack, AsyncExitStack):
            yield stack
