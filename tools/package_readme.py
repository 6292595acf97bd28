"""Make the links of README.md absolute, in place, before a package is built, whose index shows it elsewhere.

    python tools/package_readme.py

The release workflow does, in its own checkout.
"""

from __future__ import annotations

import re
import tomllib

from release_notes import ROOT, absolute


def packaged(readme: str, version: str) -> str:
    """README.md for the package of a version."""
    raw = f"https://raw.githubusercontent.com/sse-hub/sse-hub/v{version}/"
    readme = re.sub(r"(!\[[^\]]*\])\((?![a-z]+:)([^)\s]+)\)", rf"\1({raw}\2)", readme)
    return absolute(readme, f"v{version}")


if __name__ == "__main__":
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    path = ROOT / "README.md"
    text = packaged(path.read_text(encoding="utf-8"), manifest["package"]["version"])
    path.write_text(text, encoding="utf-8", newline="\n")
