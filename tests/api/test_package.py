"""What the package says about itself."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
import sse_hub
from pages import ROOT


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
