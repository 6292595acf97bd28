"""Tasks that do not end when they are cancelled, and that their loop leaves behind when it ends.

``asyncio.run`` cancels the tasks that are left, and waits for them for ever.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["leave"]

_PATIENCE = 0.1  # seconds that the end of a loop waits for such a task


async def leave(task: asyncio.Task[None]) -> None:
    """Stand for a task of this loop, which need not be waited for, until that is done or the loop ends."""
    asyncio._unregister_task(task)
    with suppress(asyncio.CancelledError):
        await asyncio.wait([task])
        return
    task.cancel()  # as the loop would have done
    if not (await asyncio.wait([task], timeout=_PATIENCE))[0]:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # as is said already
