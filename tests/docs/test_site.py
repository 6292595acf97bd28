"""The site has every page of docs/, and its links lead to pages of the site or to files of the repository."""

from __future__ import annotations

import importlib.util
import posixpath
import re
from types import ModuleType

import pytest
from pages import ROOT


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


SITE = load_hook()
# The file names a function of Python, which only mkdocs looks up.
NAVIGATION = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
PAGES = sorted(
    {*(page.name for page in (ROOT / "docs").glob("*.md")), *SITE.OUTSIDE} - {"fanout.svg", "growth.svg"}
)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(NAVIGATION) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_or_to_the_repository(page: str) -> None:
    text = SITE.links((ROOT / SITE.source_of(page)).read_text(), page)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if target.startswith(SITE.REPOSITORY):
            assert (ROOT / target.removeprefix(SITE.REPOSITORY)).exists(), target
        elif not re.match(r"[a-z]+:", target):
            is_file = (ROOT / "docs" / target).is_file() and not target.endswith(".md")  # copied as it is
            assert is_file or posixpath.normpath(target) in {*PAGES, *SITE.OUTSIDE}, target


def test_links_in_programs_stay() -> None:
    program = "\n\n```sh\n[a](../README.md)\n```\n\n"
    text = f"[a](../README.md#quick-start){program}[b](../bench/README.md) [c](index.md)\n"
    assert SITE.links(text, "runs.md") == (
        f"[a](index.md#quick-start){program}[b]({SITE.REPOSITORY}bench/README.md) [c](index.md)\n"
    )


def test_an_option_is_not_broken_at_its_hyphens() -> None:
    option = SITE.on_page_content("<code>--limit-max-requests</code> <code>-m uvicorn --reload</code>")
    assert option == '<code class="option">--limit-max-requests</code> <code>-m uvicorn --reload</code>'
    assert "code.option" in (ROOT / "docs" / "site.css").read_text()
    assert "extra_css: [site.css]" in (ROOT / "mkdocs.yml").read_text()


def test_the_site_asks_no_other_host() -> None:
    """The theme would fetch fonts, and stars of the repository."""
    settings = (ROOT / "mkdocs.yml").read_text()
    assert re.search(r"^  font: false", settings, re.MULTILINE)
    assert not re.search(r"^repo_url:", settings, re.MULTILINE)
