"""The package's definitions, docstrings and imports, read from its sources without importing them.

`_core.pyi` stands for the native module; `__all__` of a module says what is public.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "sse_hub"

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign | ast.Assign
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Module:
    """A source file: its definitions by name, with the string below each, and what it imports."""

    name: str
    tree: ast.Module
    definitions: dict[str, Definition] = field(default_factory=dict)
    docs: dict[str, str] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    @property
    def public(self) -> list[str]:
        value = self.definitions.get("__all__")
        return ast.literal_eval(value.value) if isinstance(value, ast.Assign) else []


@dataclass(frozen=True)
class Found:
    """A definition and the module it is in."""

    module: Module
    node: Definition
    doc: str


_modules: dict[str, Module] = {}


def module(name: str) -> Module:
    """The module `sse_hub.NAME`, parsed; the stub where there is one."""
    if name in _modules:
        return _modules[name]
    path = PACKAGE.joinpath(*name.split(".")) if name else PACKAGE
    candidates = [path.with_suffix(".pyi"), path.with_suffix(".py"), path / "__init__.py"]
    source = next(file for file in candidates if file.is_file() and (name or file.name == "__init__.py"))
    made = _modules[name] = Module(name, ast.parse(source.read_text(encoding="utf-8")))
    for node in made.tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                origin = imported_from(node, alias.name, name)
                if origin is not None:
                    made.imports[alias.asname or alias.name] = origin
    made.definitions, made.docs = definitions(made.tree.body)
    return made


def imported_from(node: ast.ImportFrom, name: str, into: str) -> tuple[str, str | None] | None:
    """The module of the package, and the name in it (None for the module itself)."""
    if node.level:
        package = into.split(".")[: -node.level] if into else []
        origin = ".".join([*package, *(node.module or "").split(".")]).strip(".")
    elif (node.module or "").split(".")[0] == "sse_hub":
        origin = (node.module or "").partition(".")[2]
    else:
        return None
    if not origin:
        is_module = any((PACKAGE / f"{name}{end}").exists() for end in (".py", ".pyi", "/__init__.py"))
        return (name, None) if is_module else ("", name)
    return origin, name


def definitions(body: list[ast.stmt]) -> tuple[dict[str, Definition], dict[str, str]]:
    """What a module or class defines, and the docstring of each: of a variable, the string below it."""
    found: dict[str, Definition] = {}
    docs: dict[str, str] = {}
    for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name, doc = node.name, ast.get_docstring(node) or ""
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name = target.id if isinstance(target, ast.Name) else ""
            value = following.value if isinstance(following, ast.Expr) else None
            doc = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
        else:
            continue
        if name and (name not in found or doc):
            found[name], docs[name] = node, doc
    return found, docs


def resolve(name: str, into: Module) -> Found | None:
    """A name as a module sees it, wherever in the package it is defined."""
    if name in into.definitions:
        return Found(into, into.definitions[name], into.docs[name])
    origin = into.imports.get(name)
    return resolve(origin[1], module(origin[0])) if origin and origin[1] else None


def bases(found: Found) -> Iterator[Found]:
    """The class and its bases within the package."""
    yield found
    assert isinstance(found.node, ast.ClassDef)
    for base in found.node.bases:
        parent = None
        if isinstance(base, ast.Name):
            parent = resolve(base.id, found.module)
        elif isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):
            origin = found.module.imports.get(base.value.id)
            parent = resolve(base.attr, module(origin[0])) if origin and origin[1] is None else None
        if parent is not None and isinstance(parent.node, ast.ClassDef):
            yield from bases(parent)


def members(found: Found) -> dict[str, Found]:
    """The public members of a class, its own and inherited; a docstring may be the base's."""
    merged: dict[str, Found] = {}
    assert isinstance(found.node, ast.ClassDef)
    for owner in bases(found):
        assert isinstance(owner.node, ast.ClassDef)
        if owner.node.name != found.node.name and owner.node.name in module("").public:
            continue  # rendered there
        nodes, docs = definitions(owner.node.body)
        for name, node in nodes.items():
            if name.startswith("_") and name not in ("__init__", "__new__"):
                continue
            if name not in merged:
                merged[name] = Found(owner.module, node, docs[name])
            elif not merged[name].doc:
                merged[name] = Found(merged[name].module, merged[name].node, docs[name])
    return merged
