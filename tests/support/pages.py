"""The fenced blocks of README.md and docs/, by page and heading.

A Python block with an import is a whole program and runs in an empty namespace. Any other block is a
fragment, and runs in a namespace with a ``hub``.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sse_hub import Hub

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

Names = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    heading: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def is_program(self) -> bool:
        return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(self.text).body)

    def run(self) -> Names:
        """Execute the block; returns its names. Tracebacks point into the page."""
        names: Names = {"__name__": "main"} if self.is_program else {"hub": Hub()}
        code = compile(
            "\n" * self.line + self.text, str(self.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
        return names


def blocks_of(page: Path) -> list[Block]:
    blocks, heading, start, language = [], "", 0, ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if fence := re.match(r"\s*```(\w*)", line):
            if start:
                text = textwrap.dedent("\n".join(lines[start:number])) + "\n"
                blocks.append(Block(page, heading, start, language, text))
                start = 0
            else:
                start, language = number + 1, fence[1]
        elif not start and line.startswith("#"):
            heading = line.lstrip("# ")
    assert not start, f"{page.name}: the block at line {start} does not end"
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def find(page: str, heading: str, language: str = "python") -> list[Block]:
    found = [b for b in BLOCKS if (b.page.name, b.heading, b.language) == (page, heading, language)]
    assert found, f"{page} has no {language} block under {heading!r}"
    return found


def exercises(page: str, heading: str) -> Any:
    """Give a test the program under a heading of a page."""
    (block,) = [block for block in find(page, heading) if "app = " in block.text]
    return pytest.mark.parametrize("block", [pytest.param(block, id=str(block))])


def hold_pauses(names: Names) -> threading.Event:
    """Have each ``asyncio.sleep`` of a program wait for this event instead of time.

    A run that goes on by itself is over before a slow machine comes to stop it.
    """
    go_on = threading.Event()
    _replace_sleep(names, go_on.is_set)
    return go_on


def count_pauses(names: Names) -> threading.Semaphore:
    """The same, but each release of this semaphore ends one pause."""
    ends = threading.Semaphore(0)
    _replace_sleep(names, lambda: ends.acquire(blocking=False))
    return ends


def _replace_sleep(names: Names, may_end: Callable[[], bool]) -> None:
    async def sleep(_: float) -> None:
        while not may_end():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    names["asyncio"] = SimpleNamespace(**vars(asyncio) | {"sleep": sleep})
