"""docs/reference.md is what the docstrings say, and every public name has one."""

from __future__ import annotations

import sys

import pytest
from pages import ROOT


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import reference

    yield reference
    for name in ("reference", "sources"):
        sys.modules.pop(name, None)


def test_the_page_is_up_to_date(reference) -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.render(), "run `make reference`"


def test_every_public_name_has_a_docstring(reference) -> None:
    assert reference.undocumented() == []


def test_arguments_stand_beside_their_defaults(reference) -> None:
    page = reference.render()
    assert "| `history` | `1024` |" in page
    assert '| `overflow` | `"disconnect"` |' in page
    assert "| `history_bytes` | `8 * MiB` |" in page
