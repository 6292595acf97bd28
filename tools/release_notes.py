"""Print what CHANGELOG.md says of a version, as the notes of its release.

    python tools/release_notes.py v0.2.0

Fails unless the tag is the version of Cargo.toml, and the changelog has that version with its date.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def section(changelog: str, version: str) -> tuple[str, str]:
    """The date, or word, beside a version's heading, and the text below it."""
    found = re.search(
        rf"^## \[{re.escape(version)}\] - ([^\n]+)\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if found is None:
        raise SystemExit(f"CHANGELOG.md has no section ## [{version}] - DATE")
    return found[1].strip(), found[2].strip() + "\n"


def absolute(text: str, tag: str) -> str:
    """The same with links into the repository at a tag, for those who read it outside."""
    base = f"https://github.com/sse-hub/sse-hub/blob/{tag}/"
    return re.sub(r"\]\((?![a-z]+:|#)([^)\s]+)\)", rf"]({base}\1)", text)


def notes(tag: str, version: str, changelog: str) -> str:
    """The notes of the release that a tag stands for."""
    if tag != f"v{version}":
        raise SystemExit(f"the tag {tag} is not v{version}, the version of Cargo.toml")
    date, text = section(changelog, version)
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise SystemExit(
            f"CHANGELOG.md dates {version} as {date!r}: give the day of the release, as YYYY-MM-DD"
        )
    return absolute(text, tag)


if __name__ == "__main__":
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    print(notes(sys.argv[1], manifest["package"]["version"], changelog), end="")
