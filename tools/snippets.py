"""Write the programs of README.md and docs/ into target/snippets, for a type checker.

A program is a Python block with an import. `main.py` is the first program of README.md, as its text calls it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target" / "snippets"


def programs(page: Path) -> dict[str, str]:
    """The programs of a page, by a name that leads back to their line."""
    text = page.read_text(encoding="utf-8")
    found = {}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if re.search(r"^(?:from|import) ", block[1], re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 1
            found[f"{re.sub(r'[^a-z0-9]', '_', page.stem.lower())}_{line}"] = block[1]
    return found


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    first, *_ = programs(ROOT / "README.md").values()
    (FOLDER / "main.py").write_text(first, encoding="utf-8")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for name, program in programs(page).items():
            (FOLDER / f"{name}.py").write_text(program, encoding="utf-8")


if __name__ == "__main__":
    main()
