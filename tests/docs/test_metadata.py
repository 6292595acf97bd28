"""What the manifests promise is what the workflow tests and the pages say."""

from __future__ import annotations

import re
import tomllib

import yaml
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CRATE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
WORKFLOWS = ROOT / ".github" / "workflows"


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
