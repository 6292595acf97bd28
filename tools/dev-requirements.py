"""Print the `dev` dependency group of pyproject.toml, one requirement a line."""

import pathlib
import tomllib

pyproject = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())
print("\n".join(pyproject["dependency-groups"]["dev"]))
