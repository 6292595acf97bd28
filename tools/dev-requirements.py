"""Print a dependency group of pyproject.toml, `dev` unless one is named, one requirement a line."""

import pathlib
import sys
import tomllib

pyproject = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(pyproject["dependency-groups"][sys.argv[1] if len(sys.argv) > 1 else "dev"]))
