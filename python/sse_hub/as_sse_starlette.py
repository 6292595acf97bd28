"""Have ``import sse_starlette`` find sse-hub, for programs that import sse-starlette themselves.

Packages such as ``mcp``, ``a2a-sdk`` and ``langgraph-api`` serve their streams with sse-starlette. Import
this module before them, first thing in the program::

    import sse_hub.as_sse_starlette  # noqa: F401
    from mcp.server.fastmcp import FastMCP

or start the program through it, which needs no change to the program::

    python -m sse_hub.as_sse_starlette -m uvicorn main:app

From then on ``sse_starlette``, ``sse_starlette.sse`` and ``sse_starlette.event`` are ``sse_hub``'s modules
of the same names in this process, whether sse-starlette is installed or not. ``python -m`` also serves the
worker processes that the program starts with multiprocessing, as uvicorn's ``--workers`` and ``--reload`` do.

Raises:
    ImportError: sse_starlette was imported before. Code that has its classes already would keep them.
"""

from __future__ import annotations

import importlib.machinery
import runpy
import sys
from pathlib import Path
from types import ModuleType

import sse_hub
from sse_hub import event, sse

__all__ = ["API", "install"]

API = "3.7.0"
"""The version of sse-starlette whose API sse-hub has; ``sse_starlette.__version__`` then reports it."""


def install() -> None:
    """Put sse-hub in the place of sse-starlette. Calling it again changes nothing.

    Raises:
        ImportError: sse_starlette was imported before.
    """
    present = sys.modules.get("sse_starlette")
    if present is not None:
        if getattr(present, "__sse_hub__", False):
            return
        raise ImportError(
            "sse_starlette was imported before sse_hub.as_sse_starlette: code that has its classes already"
            " would keep them. Import sse_hub.as_sse_starlette first."
        )
    package = ModuleType("sse_starlette", "sse-hub, in the place of sse-starlette.")
    package.__path__ = []
    package.__spec__ = importlib.machinery.ModuleSpec("sse_starlette", None, is_package=True)
    names = ["EventSourceResponse", "JSONServerSentEvent", "ServerSentEvent"]
    for name in names:
        setattr(package, name, getattr(sse_hub, name))
    package.__dict__.update(__all__=names, __version__=API, __sse_hub__=True, sse=sse, event=event)
    sys.modules.update({"sse_starlette": package, "sse_starlette.sse": sse, "sse_starlette.event": event})


def _main(arguments: list[str]) -> None:
    """Run a module (``-m NAME``) or a script, as ``python`` would.

    This module stays ``__main__``: a process that multiprocessing spawns runs its parent's main module first.
    """
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__")
    elif arguments and not arguments[0].startswith("-"):
        if not Path(arguments[0]).exists():
            sys.exit(f"{arguments[0]}: no such file; a module is run by -m {arguments[0]}")
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.exit("usage: python -m sse_hub.as_sse_starlette (-m MODULE | SCRIPT) [ARGUMENT ...]")


install()
if __name__ == "__main__":
    _main(sys.argv[1:])
