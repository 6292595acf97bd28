"""What a server's module provides, and what is passed to it."""

from __future__ import annotations

import asyncio
import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, FunctionType, MethodType
from typing import Any, Protocol, TypeAlias, TypeVar

from starlette.types import Receive, Scope

__all__ = ["Holds", "NewStopping", "Record", "Server", "Stopping", "frames", "owners", "select_by_headers"]


class Record(Protocol):
    """A response in progress: what finding its connection needs."""

    scope: Scope
    receive: Receive


R = TypeVar("R", bound=Record)


class Server(Protocol):
    """One running server, asked while it stops. A connection is whatever :meth:`abort` needs, or None."""

    @property
    @abstractmethod
    def state(self) -> Any | None:
        """The object that identifies the server to its handed-off streams; None if it hands nothing off."""

    @property
    @abstractmethod
    def limit(self) -> float | None:
        """Seconds after which the server itself cancels what is left; None when it waits for ever."""

    @abstractmethod
    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        """Those of ``records`` that this server serves, each with its connection."""

    @abstractmethod
    def unflushed(self) -> Iterable[tuple[Any, float]]:
        """Connections, each with its grace, whose stream ended but whose peer has not taken all of it."""

    @abstractmethod
    def is_last(self) -> bool:
        """Whether no other server of its event loop goes on."""

    def hold(self, task: asyncio.Task[None]) -> None:
        """Do not finish the shutdown before ``task`` has ended.

        A server that hands nothing off (``state`` is None) may be unable to wait; then it cancels the task.
        """

    def abort(self, connections: list[Any]) -> None:
        """Abort those of ``connections`` that a stream, or what is left of it to send, still holds."""


class Stopping(Protocol):
    """Created by a server's module when that server begins to stop; kept until its shutdown is over."""

    def begin(self) -> None:
        """Stop the server's streams now, and abort what remains later. On the server's loop; idempotent."""

    def end(self) -> None:
        """The server's shutdown is over. Optional: dropping the last reference does the same."""


NewStopping: TypeAlias = Callable[[Server], Stopping]
"""Called on the server's loop when its stop is noticed."""


class Holds:
    """Tasks that a server waits for before it finishes its shutdown."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ended(self) -> None:
        """Wait until all of them have ended, and those that come in between."""
        while waiting := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(waiting)


def select_by_headers(records: list[R], open_responses: dict[int, Any]) -> Iterator[tuple[R, Any]]:
    """Match records with a server's unfinished responses, known by the ``id`` of the scope's headers.

    Middleware replaces ``receive`` and copies the scope, but passes on the same list of headers. If it
    replaces that too, the record looks like one of another server on the same loop. It then counts as this
    server's if the server has a response that no record claims: a client whose stream ends too early comes
    back, while a stream that does not end keeps its server from stopping.
    """
    hidden: list[R] = []
    unclaimed = dict(open_responses)
    for record in records:
        key = id(record.scope.get("headers"))
        if key in open_responses:
            unclaimed.pop(key, None)
            yield record, open_responses[key]
        else:
            hidden.append(record)
    if unclaimed:
        for record in hidden:
            yield record, None


def owners(function: Callable[..., Any], name: str) -> Iterator[Any]:
    """The objects that own a response's ``receive`` or ``send`` as a method, from the outside in.

    Middleware wraps either. ``name`` says which of the two it is.
    """
    current: Any = function
    for _ in range(16):
        owner = getattr(current, "__self__", None)
        if owner is not None:
            yield owner
        current = _wrapped(current, owner, name)
        if current is None:
            break


def _wrapped(function: Any, owner: Any, name: str) -> Any | None:
    """The function that this one calls: an attribute of its object, or a variable of its closure."""
    if (inner := getattr(function, "__wrapped__", None)) is not None:
        return inner
    if isinstance(function, functools.partial):
        return next((arg for arg in (*function.args, function.func) if callable(arg)), None)
    attributes = getattr(function if owner is None else owner, "__dict__", {})
    for attribute in (f"_{name}", name):
        if callable(inner := attributes.get(attribute)):
            return inner
    plain = function.__func__ if isinstance(function, MethodType) else function
    if isinstance(plain, FunctionType) and plain.__closure__:
        for variable, cell in zip(plain.__code__.co_freevars, plain.__closure__, strict=True):
            if name in variable:
                try:
                    inner = cell.cell_contents
                except ValueError:  # not assigned yet
                    continue
                if callable(inner):
                    return inner
    return None


def frames(loop: asyncio.AbstractEventLoop, package: str, function: str) -> Iterator[FrameType]:
    """The frames of ``package``'s coroutines called ``function`` that a task of this loop waits in."""
    for task in asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        for _ in range(32):
            frame = getattr(coroutine, "cr_frame", None)
            if frame is None:
                break
            module = frame.f_globals.get("__name__", "")
            if frame.f_code.co_name == function and module.partition(".")[0] == package:
                yield frame
                break
            coroutine = coroutine.cr_await
