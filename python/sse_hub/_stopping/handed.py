"""Handed-off streams end with the server they came from, which waits until they have ended.

Once a connection is handed off, its server knows nothing of it and would stop without a word to its client.
So a hub that takes connections over registers with the server of each, by the group its streams are in.
"""

from __future__ import annotations

import asyncio
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from sse_hub import _servers
from sse_hub._stopping import registry
from sse_hub._stopping.registry import Registration, RunningServer, switch
from sse_hub._stopping.server_stop import ServerStop

__all__ = ["GroupOwner", "handed_off", "running_server"]


class GroupOwner(Protocol):
    """A hub, as the owner of streams in groups."""

    @property
    @abstractmethod
    def grace(self) -> float:
        """Seconds its streams may take to end in order."""

    def _before_stop(self, then: Callable[[], None], /) -> None:
        """Call ``then``, which ends streams of a stopping server, after what must come before their end."""

    def _stop_group(self, group: int, /) -> None:
        """Begin to end the streams in order."""

    @abstractmethod
    def _open_in_group(self, group: int, /) -> int:
        """How many of the streams have not ended."""

    def _abort_group(self, group: int, /) -> None:
        """End the streams now."""


class _Group:
    """One group of a hub's streams as a stoppable. It holds the hub weakly: a hub that is gone has ended."""

    __slots__ = ("_group", "_owner")

    def __init__(self, owner: GroupOwner, group: int) -> None:
        self._owner = weakref.ref(owner)
        self._group = group

    @property
    def grace(self) -> float:
        owner = self._owner()
        return 0.0 if owner is None else owner.grace

    def stop(self) -> None:
        if (owner := self._owner()) is not None:
            owner._before_stop(self.end)

    def end(self) -> None:
        if (owner := self._owner()) is not None:
            owner._stop_group(self._group)

    def finished(self) -> bool:
        owner = self._owner()
        return owner is None or owner._open_in_group(self._group) == 0

    def abort(self) -> None:
        if (owner := self._owner()) is not None:
            owner._abort_group(self._group)


def running_server(state: Any) -> RunningServer:
    """The entry of the server with this state object; its stop is noticed from now on."""
    server = registry.running_server(state)
    _servers.watch_uvicorn(asyncio.get_running_loop(), ServerStop)
    return server


def handed_off(server: RunningServer, owner: GroupOwner, group: int) -> None:
    """End ``owner``'s streams of ``group`` when ``server`` stops, and keep it waiting for them.

    ``group`` is one of the server's own. Call it on the server's loop for each stream that was taken over,
    after ``owner`` knows that stream; it costs about a microsecond, and calls after the first change nothing.
    ``owner`` is held weakly. Streams of a server that is stopping already are ended in the loop's next turn.
    """
    groups = server.handed.get(owner)
    if groups is None:
        groups = server.handed.setdefault(owner, {})
    switched = group == server.switched_group
    if group in groups and not (server.stopping or (switched and switch.ends_all)):
        return
    # A group that is registered again is ended again: this stream was not in it the first time.
    registration = Registration(_Group(owner, group), server.loop, group=group, switched=switched)
    groups[group] = registration
    registration.register()
