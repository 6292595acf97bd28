"""``AppStatus``: sse-starlette's switch that ends every ``EventSourceResponse`` of the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sse_hub._stopping.registry import switch

__all__ = ["AppStatus"]


class _AppStatusMeta(type):
    """Makes ``AppStatus.should_exit = True`` take effect at once, from any thread.

    The properties can be deleted, which resets them: ``monkeypatch`` and ``mock.patch`` do that at the end.
    """

    @property
    def should_exit(cls) -> bool:
        return switch.ends_all or (switch.servers_stopping > 0 and switch.drains)

    @should_exit.setter
    def should_exit(cls, value: bool) -> None:
        switch.end_all(bool(value))

    @should_exit.deleter
    def should_exit(cls) -> None:
        switch.end_all(False)

    @property
    def enable_automatic_graceful_drain(cls) -> bool:
        return switch.drains

    @enable_automatic_graceful_drain.setter
    def enable_automatic_graceful_drain(cls, value: bool) -> None:
        switch.drains = bool(value)

    @enable_automatic_graceful_drain.deleter
    def enable_automatic_graceful_drain(cls) -> None:
        switch.drains = True


class AppStatus(metaclass=_AppStatusMeta):
    """A switch for the streams of the whole process, beside what their servers do.

    Streams end when their server stops, without any use of this class. It is for programs that end them
    earlier, or that took over the server's signals. It has class attributes only:

    * ``should_exit``: assigning True ends every ``EventSourceResponse`` in progress at once, as a stopping
      server does, and each that begins later; assign False to allow streams again. Reading it also returns
      True while a server of this process stops, although streams of other servers go on.
    * ``enable_automatic_graceful_drain``: default True; False keeps streams open while their server stops,
      until ``should_exit`` is set.
    * ``original_handler``: what ``handle_exit`` calls last, or None, the default. Only the program sets it,
      because no server is patched.
    """

    original_handler: Callable[..., Any] | None = None

    @staticmethod
    def disable_automatic_graceful_drain() -> None:
        """Keep streams open while their server stops.

        The server then waits for them, for ever or until its own limit: set ``should_exit`` to end them.
        """
        AppStatus.enable_automatic_graceful_drain = False

    @staticmethod
    def enable_automatic_graceful_drain_mode() -> None:
        """End streams when their server stops: the default, and the opposite of the above."""
        AppStatus.enable_automatic_graceful_drain = True

    @staticmethod
    def handle_exit(*args: Any, **kwargs: Any) -> None:
        """A signal handler: ends the streams, unless draining is disabled; calls ``original_handler``."""
        if AppStatus.enable_automatic_graceful_drain:
            AppStatus.should_exit = True
        if AppStatus.original_handler is not None:
            AppStatus.original_handler(*args, **kwargs)
