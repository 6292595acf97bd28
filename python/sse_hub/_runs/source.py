"""What a run's function returns, as one async iterator."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from typing import Any

from sse_hub._responses.content import SyncContent

__all__ = ["close_source", "open_source"]


def open_source(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncIterator[Any]:
    """Call the function; a generator that is not async is stepped in worker threads.

    Raises:
        TypeError: the function does not return an iterator. What the call itself raises is raised, too.
    """
    if not callable(function):
        raise TypeError(f"a run's function is a generator function that is not called yet, not {function!r}")
    source = function(*args, **kwargs)
    if isinstance(source, AsyncIterable):
        return aiter(source)
    if isinstance(source, Iterator):
        return SyncContent(source)
    if inspect.iscoroutine(source):
        source.close()  # or Python would warn about it
    raise TypeError(f"a run's function is a generator function, def or async, not {function!r}")


async def close_source(source: AsyncIterator[Any]) -> None:
    """Run its ``finally``. Raises what that raises."""
    if (aclose := getattr(source, "aclose", None)) is not None:
        await aclose()
