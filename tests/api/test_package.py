"""What the package says about itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from types import GetSetDescriptorType
from typing import Any

import pytest
import sse_hub
from pages import ROOT
from sse_hub import _core


def test_the_version_is_that_of_the_manifest() -> None:
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert sse_hub.__version__ == manifest["package"]["version"]


def test_a_name_that_is_not_there_is_an_error_as_ever() -> None:
    with pytest.raises(AttributeError, match="module 'sse_hub' has no attribute 'Hubb'"):
        sse_hub.Hubb  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Hubb'"):
        from sse_hub import Hubb  # type: ignore[attr-defined]  # noqa: F401


def test_importing_leaves_the_gil_as_it_was() -> None:
    """A free-threaded Python turns its GIL on, with a warning, for an extension that may need it."""
    program = (
        "import sys\n"
        "is_on = getattr(sys, '_is_gil_enabled', lambda: True)\n"
        "before = is_on()\n"
        "import sse_hub, sse_hub.sse, sse_hub.testing, sse_hub.brokers\n"
        "hub = sse_hub.Hub()\n"
        "hub.publish('topic', {'text': 'hello'})\n"
        "hub.close()\n"
        "assert is_on() == before, 'the GIL is on'\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("first", [True, False], ids=["after the program", "before it"])
def test_a_second_interpreter_of_a_process_is_refused(first: bool) -> None:
    """Those that share a GIL: Python itself refuses the others, where it has them."""
    program = f"""
import sys
use = "import sse_hub; sse_hub.Hub().publish('topic', sse_hub.JSONServerSentEvent([1]))"
if {first}:
    exec(use)
if sys.version_info >= (3, 13):
    import _interpreters
    def run():
        failed = _interpreters.exec(other, use)
        return failed and failed.formatted
    other, end = _interpreters.create("legacy"), _interpreters.destroy
else:
    import _xxsubinterpreters as _interpreters
    def run():
        try:
            _interpreters.run_string(other, use)
        except _interpreters.RunFailedError as failed:
            return str(failed)
    other, end = _interpreters.create(isolated=False), _interpreters.destroy
print("inside:", run())
end(other)
try:
    exec(use)
    print("outside: None")
except ImportError as error:
    print("outside:", error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    inside, _, outside = ran.stdout.partition("outside:")
    refused, works = (inside, outside) if first else (outside, inside)
    assert "sse_hub was imported in another interpreter of this process" in refused
    assert works.endswith("None\n")


def public_modules() -> list[str]:
    return ["sse_hub"] + [
        f"sse_hub.{module.name}"
        for module in pkgutil.iter_modules(sse_hub.__path__)
        # This one puts sse-hub in the place of sse-starlette.
        if not module.name.startswith("_") and module.name != "as_sse_starlette"
    ]


def documented_names(module: str) -> Iterator[tuple[str, object]]:
    """The classes and functions of a module's ``__all__``, and the methods and properties of its classes."""
    names = importlib.import_module(module)
    for name in getattr(names, "__all__", ()):
        value = getattr(names, name)
        if inspect.isroutine(value):
            yield name, value
        elif inspect.isclass(value) and value.__module__.startswith("sse_hub"):
            yield name, value
            members = {key: owner for owner in reversed(value.__mro__) for key in vars(owner)}
            for key, owner in members.items():
                member = vars(owner)[key]
                is_member = inspect.isroutine(member) or isinstance(member, property | GetSetDescriptorType)
                if is_member and not key.startswith("_") and owner.__module__.startswith("sse_hub"):
                    yield f"{name}.{key}", member


@pytest.mark.parametrize("module", public_modules())
def test_help_explains_every_public_name(module: str) -> None:
    assert importlib.import_module(module).__doc__
    missing = []
    for name, value in documented_names(module):
        doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        if not doc or (inspect.isclass(value) and doc.startswith(f"{value.__name__}(")):  # a dataclass's own
            missing.append(name)
    assert missing == []


def stub_docs() -> dict[str, str]:
    """The docstrings of the extension's classes and their public methods, from the stub."""
    stub = ast.parse((ROOT / "python/sse_hub/_core.pyi").read_text(encoding="utf-8"))
    docs: dict[str, str | None] = {}
    for node in stub.body:
        if isinstance(node, ast.ClassDef) and node.name in ("Hub", *sse_hub.__all__):
            docs[node.name] = ast.get_docstring(node)
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    docs[f"{node.name}.{method.name}"] = ast.get_docstring(method)
    return {name: " ".join(doc.split()) for name, doc in docs.items() if doc}


@pytest.mark.parametrize("name", stub_docs())
def test_help_says_of_the_extension_what_the_reference_says(name: str) -> None:
    """Its first sentence: the rest is only in the stub, from which the reference is made."""
    found: Any = _core
    for part in name.split("."):
        found = getattr(found, part)
    assert " ".join((found.__doc__ or "").split()) == re.split(r"(?<=\.) ", stub_docs()[name])[0]
