"""What the manifests promise is what the workflow tests and the pages say."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from typing import Any

import pytest
import yaml
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CRATE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
WORKFLOWS = ROOT / ".github" / "workflows"


def tool(name: str) -> Any:
    """A program of tools/, which import each other by name."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_workflows_are_valid_and_test_every_promised_python() -> None:
    jobs = yaml.safe_load((WORKFLOWS / "test.yml").read_text())["jobs"]
    for job in jobs.values():
        assert job["runs-on"]
        assert job["timeout-minutes"]
        assert all("run" in step or "uses" in step for step in job["steps"])
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert tested == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_a_release_has_wheels_and_tests_for_every_promised_python() -> None:
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    pythons = release["env"]["PYTHONS"].split()
    assert pythons == list(tool("test_pythons").VERSIONS)
    assert [version for version in pythons if not version.endswith("t")] == promised
    jobs = release["jobs"]
    for job in ("test-linux", "test-musl", "test-elsewhere"):
        assert jobs[job]["strategy"]["matrix"]["python"] == promised
    built = {item["name"] for item in jobs["wheels"]["strategy"]["matrix"]["include"]}
    assert set(jobs["packed"]["strategy"]["matrix"]["name"]) == built
    # Nothing is published that was not tested.
    assert {name for name in jobs if name not in ("wheels", "packed", "publish")} == set(
        jobs["publish"]["needs"]
    )
    assert all(jobs[name]["needs"] == "packed" for name in jobs if name.startswith("test-"))


def test_the_readme_of_the_package_links_into_the_repository() -> None:
    readme = tool("package_readme").packaged((ROOT / "README.md").read_text(), "2.0.0")
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert "https://github.com/sse-hub/sse-hub/blob/v2.0.0/docs/index.md" in links
    assert "https://raw.githubusercontent.com/sse-hub/sse-hub/v2.0.0/bench/results/fanout.svg" in links
    assert all(link.startswith(("https://", "#")) for link in links)


def test_what_the_oldest_packages_are_not_tested_with_is_there() -> None:
    for test in tool("test_pythons").NEWER:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_the_notes_of_a_release_are_the_changelogs() -> None:
    notes = tool("release_notes").notes
    changelog = (
        "# Changelog\n\n## [2.0.0] - 2027-01-31\n\n- [A](docs/a.md)\n\n## [1.0.0] - 2026-01-31\n\n- B\n"
    )
    link = "https://github.com/sse-hub/sse-hub/blob/v2.0.0/docs/a.md"
    assert notes("v2.0.0", "2.0.0", changelog) == f"- [A]({link})\n"
    assert notes("v1.0.0", "1.0.0", changelog) == "- B\n"
    for tag, version, complaint in [
        ("v1.0.0", "2.0.0", "the tag v1.0.0 is not v2.0.0"),
        ("v3.0.0", "3.0.0", r"no section ## \[3.0.0\]"),
    ]:
        with pytest.raises(SystemExit, match=complaint):
            notes(tag, version, changelog)
    with pytest.raises(SystemExit, match=r"dates 2\.0\.0 as 'Unreleased'"):
        notes("v2.0.0", "2.0.0", changelog.replace("2027-01-31", "Unreleased"))
    # The next release has its section already, dated or not.
    assert tool("release_notes").section((ROOT / "CHANGELOG.md").read_text(), CRATE["version"])


def test_the_minimum_versions_are_the_manifests() -> None:
    rust, python = CRATE["rust-version"], PROJECT["requires-python"].removeprefix(">=")
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    installing = (ROOT / "docs" / "installing.md").read_text()
    assert f"Rust {rust} or newer" in installing
    assert f"Python {python} or newer" in readme
    assert f"Python {python} or newer" in installing
    assert f"{rust} or newer" in makefile
    assert f"Python {python} or newer" in makefile
    assert 'load(open("Cargo.toml", "rb"))["package"]["rust-version"]' in (WORKFLOWS / "test.yml").read_text()


def test_one_repository_is_named() -> None:
    repository = PROJECT["urls"]["Repository"]
    assert CRATE["repository"] == repository
    assert all(url.startswith(repository) for url in PROJECT["urls"].values())
    assert repository in (ROOT / "SECURITY.md").read_text()
