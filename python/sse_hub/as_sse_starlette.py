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

import builtins
import io
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any

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
    package.__spec__ = ModuleSpec("sse_starlette", None, is_package=True)
    names = ["EventSourceResponse", "JSONServerSentEvent", "ServerSentEvent"]
    for name in names:
        setattr(package, name, getattr(sse_hub, name))
    package.__dict__.update(__all__=names, __version__=API, __sse_hub__=True, sse=sse, event=event)
    sys.modules.update({"sse_starlette": package, "sse_starlette.sse": sse, "sse_starlette.event": event})


def _serve_children() -> None:
    """Have what multiprocessing starts here begin with this call, before its main module runs."""
    from multiprocessing import get_all_start_methods, spawn

    if not isinstance(spawn.get_preparation_data, _Preparation):
        setattr(spawn, "get_preparation_data", _Preparation(spawn.get_preparation_data))  # noqa: B010
        if "forkserver" in get_all_start_methods():
            from multiprocessing import forkserver

            preload = _Preload(forkserver.set_forkserver_preload)
            setattr(forkserver, "set_forkserver_preload", preload)  # noqa: B010
            preload([])


class _Preparation:
    """multiprocessing's function that makes what a child is sent."""

    def __init__(self, prepare: Callable[[str], dict[str, Any]]) -> None:
        self._prepare = prepare

    def __call__(self, name: str) -> dict[str, Any]:
        return {**self._prepare(name), "sse_hub": _CalledWhereUnpickled()}


class _Preload:
    """multiprocessing's function that says what a forkserver imports before it forks: this module first.

    Not the main script, which a forkserver runs before all it imports, and unasked from Python 3.14 on.
    """

    def __init__(self, preload: Callable[..., None]) -> None:
        self._preload = preload

    def __call__(self, modules_names: Iterable[str], **options: Any) -> None:
        names = [name for name in modules_names if name != "__main__"]
        self._preload([__name__, *names], **options)


class _CalledWhereUnpickled:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _serve_children, ()


def _main(arguments: list[str]) -> None:
    """Run a module (``-m NAME``) or a script, as ``python`` would: it becomes ``__main__``."""
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        spec, code = _find(arguments[1])
        sys.argv = [spec.origin or arguments[1], *arguments[2:]]
        _run(code, sys.argv[0], spec)
    elif arguments and not arguments[0].startswith("-"):
        script, sys.argv = arguments[0], arguments
        if pkgutil.get_importer(script) is not None:  # a directory or an archive
            sys.path[: 0 if sys.flags.safe_path else 1] = [script]
            spec, code = _find("__main__", [script])
            _run(code, spec.origin or script, spec)
        else:
            if not sys.flags.safe_path:
                sys.path[0] = os.path.dirname(os.path.realpath(script))
            file = os.path.abspath(script)
            _run(_compile(file), file, None)
    else:
        sys.exit("usage: python -m sse_hub.as_sse_starlette (-m MODULE | SCRIPT) [ARGUMENT ...]")


def _compile(script: str) -> CodeType:
    try:
        with io.open_code(script) as file:
            source = file.read()
    except OSError as error:
        sys.exit(f"can't open file {script!r}: {error.strerror}; a module is run by -m NAME")
    return compile(source, script, "exec", dont_inherit=True)


def _find(name: str, path: list[str] | None = None) -> tuple[ModuleSpec, CodeType]:
    """A module's spec and code; a package's are those of its ``__main__``."""
    try:
        spec = find_spec(name) if path is None else PathFinder.find_spec(name, path)
    except ModuleNotFoundError as error:  # of a package around it
        sys.exit(str(error))
    if spec is None:
        sys.exit(f"No module named {name!r}")
    if spec.submodule_search_locations is not None:
        return _find(f"{name}.__main__")
    code = getattr(spec.loader, "get_code", lambda _: None)(spec.name)
    if code is None:
        sys.exit(f"module {name!r} has no code that could be run")
    return spec, code


def _run(code: CodeType, file: str, spec: ModuleSpec | None) -> None:
    main = ModuleType("__main__")
    main.__dict__.update(__file__=file, __spec__=spec, __builtins__=builtins)
    if spec is not None:
        main.__dict__.update(__package__=spec.parent, __loader__=spec.loader)
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


install()
if __name__ == "__main__":
    # By its own name, by which children find what they call: `__main__` will be the program's module.
    from sse_hub import as_sse_starlette

    as_sse_starlette._serve_children()
    as_sse_starlette._main(sys.argv[1:])
