"""Arrows between source files point down: no file names a higher layer, and no circle of files.

An arrow is a path in one file that names an item of another: ``use`` lines and inline ``crate::`` or
``super::`` paths in Rust; every import in Python, also for type checkers and inside functions. A file that
only passes a name on (``pub use``) has no arrow for it; the importer has, to the file that defines the name.
``mod.rs`` and the children of a room are files like others. Unit tests inside Rust files are left out.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pages import ROOT

# The lowest layer first. Modules of one layer may name each other, in one direction.
RUST = [
    "clock descriptors ending entry error event frame histogram identity ids key outcome stats sync topic"
    " trace waker",
    "change compress config control deadlines history log numbering pace queue",
    "subscriber",
    "reader",
    "broker",
    "hub",
    "stream_broker",
    "file reactor redis",
    "py",
    "lib",
]
PYTHON = [
    "_ends _arguments",
    "_core",
    "exceptions event log",
    "brokers",
    "_servers",
    "_stopping _handoff",
    "_responses",
    "_runs",
    "_metrics",
    "hub",
    "metrics responses runs uvicorn _testing",
    "sse testing",
    "__init__",
    "as_sse_starlette",
]

# Strings and comments, in which no path counts; quoted characters, so that '"' opens no string.
NO_CODE = re.compile(r'r#"[\s\S]*?"#|"(?:\\[\s\S]|[^"\\])*"|//[^\n]*' + r"|'(?:\\.|[^\\'])'")


@dataclass
class Source:
    """The files of one language, and the arrows between them with the line of the first path."""

    layers: list[str]
    files: dict[str, Path] = field(default_factory=dict)
    arrows: dict[tuple[str, str], int] = field(default_factory=dict)
    # What a file only passes on: its name there, and where it comes from.
    fronts: dict[str, str] = field(default_factory=dict)

    def file_of(self, path: str) -> str:
        """The module that defines what ``path`` names: the longest prefix that is a file."""
        parts, module = path.split("."), ""
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self.fronts and prefix not in self.files:
                return self.file_of(".".join([self.fronts[prefix], *parts[end:]]))
            if not module and prefix in self.files:
                module = prefix
        return module

    def add(self, module: str, path: str, line: int) -> None:
        target = self.file_of(path)
        if target and target != module:
            self.arrows.setdefault((module, target), line)

    def rank(self, module: str) -> int:
        room = module.split(".")[0]
        ranks = [rank for rank, names in enumerate(self.layers) if room in names.split()]
        assert ranks, f"{self.files[module]}: give it a layer in {Path(__file__).name}"
        return ranks[0]

    def where(self, arrow: tuple[str, str]) -> str:
        return f"{self.files[arrow[0]]}:{self.arrows[arrow]} names {self.files[arrow[1]]}"

    def up(self) -> Iterator[tuple[str, str]]:
        return (arrow for arrow in self.arrows if self.rank(arrow[0]) < self.rank(arrow[1]))

    def circles(self) -> Iterator[set[str]]:
        """Files from which each other one of the set can be reached."""
        reach: dict[str, set[str]] = {}
        for start in self.files:
            found, todo = set(), [start]
            while todo:
                at = todo.pop()
                new = {to for source, to in self.arrows if source == at} - found
                found |= new
                todo += new
            reach[start] = found
        seen: set[str] = set()
        for module, found in reach.items():
            if module in found and module not in seen:
                circle = {other for other in found if module in reach[other]}
                seen |= circle
                yield circle


def use_paths(tree: str) -> Iterator[tuple[str, str]]:
    """Each path of a ``use`` and the name it has then: ``a::{b, c as d}`` is ``a.b`` and ``a.c``."""
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, alias = tree.strip().partition(" as ")
        parts = [part for part in path.strip().split("::") if part != "self" or path.strip() == "self"]
        yield ".".join(parts), alias.strip() or parts[-1]
        return
    depth, start, inner = 0, 0, rest.rstrip()[:-1]
    for at, char in enumerate([*inner, ","]):
        depth += (char == "{") - (char == "}")
        if char == "," and not depth:
            if part := inner[start:at].strip():
                yield from use_paths(head + part)
            start = at + 1


def absolute(module: str, is_room: bool, path: str) -> str:
    """A Rust path as seen from the root of the crate; empty for another crate's."""
    parts = path.split(".")
    here = [] if module == "lib" else module.split(".")
    if parts[0] == "crate":
        return ".".join(parts[1:])
    if parts[0] == "self":
        return ".".join([*here, *parts[1:]])
    while parts and parts[0] == "super":
        here, parts = here[:-1], parts[1:]
        if parts[:1] != ["super"]:
            return ".".join([*here, *parts])
    return ".".join([*here, *parts]) if is_room or module == "lib" else ""


def rust(root: Path) -> Source:
    source = Source(RUST)
    texts: dict[str, str] = {}
    for path in sorted((root / "src").rglob("*.rs")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "mod" else parts)
        source.files[module] = path.relative_to(root)
        text = NO_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), path.read_text())
        texts[module] = re.split(r"#\[cfg\(test\)\]\s+mod tests\b", text)[0]
    uses: list[tuple[str, str, int]] = []
    for module, text in texts.items():
        is_room = source.files[module].name == "mod.rs"
        code = re.sub(r"\b(?:use\s[^;]+|mod\s+\w+);", lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        for use in re.finditer(r"(\bpub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);", text):
            line = text.count("\n", 0, use.start()) + 1
            for path, name in use_paths(use[2]):
                if target := absolute(module, is_room, path):
                    if use[1] and not re.search(rf"\b{name}\b", code):
                        source.fronts[f"{module}.{name}"] = target
                    else:
                        uses.append((module, target, line))
        for path in re.finditer(r"(?<![$\w:])(?:crate|super)(?:::\w+)+", code):
            target = absolute(module, is_room, path[0].replace("::", "."))
            uses.append((module, target, text.count("\n", 0, path.start()) + 1))
        if is_room:
            for path in re.finditer(r"(?<![$\w:.])(\w+)::\w+", code):
                if f"{module}.{path[1]}" in source.files:
                    uses.append((module, f"{module}.{path[1]}", text.count("\n", 0, path.start()) + 1))
    for use_of in uses:
        source.add(*use_of)
    return source


def python(root: Path) -> Source:
    source = Source(PYTHON)
    package = root / "python"
    uses: list[tuple[str, str, int]] = []
    for path in sorted((package / "sse_hub").rglob("*.py")):
        parts = path.relative_to(package / "sse_hub").with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        source.files[module] = path.relative_to(root)
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sse_hub":
                assert node.level == 0
                for alias in node.names:
                    target = f"{node.module}.{alias.name}".removeprefix("sse_hub.")
                    shown = alias.asname or alias.name
                    if node in tree.body and shown not in names:
                        source.fronts[f"{module}.{shown}"] = target
                    uses.append((module, target, node.lineno))
            elif isinstance(node, ast.Import):
                targets = (alias.name for alias in node.names if alias.name.startswith("sse_hub"))
                uses += [(module, name.removeprefix("sse_hub."), node.lineno) for name in targets]
    for use in uses:
        source.add(*use)
    return source


def faults(source: Source) -> list[str]:
    """What each arrow that goes up, and each circle, says."""
    found = [f"up: {source.where(arrow)}" for arrow in source.up()]
    for circle in source.circles():
        inside = [arrow for arrow in source.arrows if circle.issuperset(arrow)]
        found.append("\n  ".join(["round:", *map(source.where, inside)]))
    return found


@pytest.mark.parametrize("read", [rust, python])
def test_arrows_point_down(read: Callable[[Path], Source]) -> None:
    source = read(ROOT)
    assert len(source.arrows) > 20, "it reads the imports"
    assert not faults(source), "\n".join(faults(source))


PLANTED: list[tuple[dict[str, str], str]] = [
    ({"src/ids.rs": "use crate::{clock, hub::{self}};"}, "up: src/ids.rs:{} names src/hub/mod.rs"),
    ({"src/ids.rs": "fn f() { crate::reactor::f() }"}, "up: src/ids.rs:{} names src/reactor/mod.rs"),
    (
        {"src/clock.rs": "use crate::waker::Waker;", "src/waker.rs": "use super::clock;"},
        "src/waker.rs:{} names src/clock.rs",
    ),
    (
        {"python/sse_hub/event.py": "def f():\n  from sse_hub import hub"},
        "up: python/sse_hub/event.py:{} names python/sse_hub/hub.py",
    ),
    (
        {
            "python/sse_hub/event.py": "import sse_hub.exceptions",
            "python/sse_hub/exceptions.py": "from sse_hub.event import f",
        },
        "round:\n  python/sse_hub/event.py:{} names python/sse_hub/exceptions.py",
    ),
]


@pytest.mark.parametrize(
    ("planted", "message"), PLANTED, ids=["group", "inline", "round", "lazy", "round-python"]
)
def test_a_planted_arrow_is_found(planted: dict[str, str], message: str, tmp_path: Path) -> None:
    for top in ("src", "python"):
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    read = rust if next(iter(planted)).startswith("src") else python
    before = set(faults(read(tmp_path)))
    for name, line in planted.items():
        text = (tmp_path / name).read_text().split("#[cfg(test)]")[0]
        (tmp_path / name).write_text(f"{text}\n{line}\n")
    said = "\n".join(set(faults(read(tmp_path))) - before)
    assert re.search(re.escape(message).replace(r"\{\}", r"\S*\d+"), said), said


def test_a_new_file_needs_a_layer(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "novel.rs").write_text("use crate::ids::EventId;")
    (tmp_path / "src" / "ids.rs").write_text("")
    with pytest.raises(AssertionError, match=r"novel\.rs: give it a layer"):
        faults(rust(tmp_path))
