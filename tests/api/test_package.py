"""What the package says about itself."""

from __future__ import annotations

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
