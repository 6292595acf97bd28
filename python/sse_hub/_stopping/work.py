"""Registers work that is no stream, such as a run: it ends with the last server of its event loop.

A server that stops waits for its connections only. A signal then ends the process in the middle of the work,
unless the server is made to wait for that, too.
"""

from __future__ import annotations

import asyncio

from sse_hub import _servers
from sse_hub._stopping.registry import WORK, Registration
from sse_hub._stopping.server_stop import ServerStop
from sse_hub._stopping.stoppable import Stoppable

__all__ = ["register_work"]


def register_work(work: Stoppable) -> Registration:
    """Call ``work.stop()`` when the last server of the running loop begins to stop, and have it wait.

    The registry holds the result weakly: keep it, and unregister it when the work is over. Without a server
    on this loop nothing happens.
    """
    loop = asyncio.get_running_loop()
    _servers.watch(loop, {}, ServerStop)
    registration = Registration(work, loop, group=WORK)
    registration.register()
    return registration
