"""What the manifests promise is what the workflow tests and the pages say."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
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


def test_workflows_run_what_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(makefile.partition("\n.PHONY:")[2].partition("\n")[0].split())
    for path in WORKFLOWS.iterdir():
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            script = "\n".join(step.get("run", "") for step in job["steps"])
            made = set(re.findall(r"^make ([\w-]+)", script, re.MULTILINE))
            assert made <= targets, name
            assert all((ROOT / tool).exists() for tool in re.findall(r"tools/[\w.-]+", script)), name
            # Images of Python have no Node; hosts do.
            if "container" in job and made & {"test", "lint"}:
                assert any(step.get("uses", "").startswith("actions/setup-node@") for step in job["steps"])


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


def test_only_a_pushed_tag_is_published() -> None:
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    on = release[True]  # YAML's `on`
    assert set(on) == {"push", "workflow_dispatch"}
    assert set(on["push"]) == {"tags"}
    assert release["jobs"]["publish"]["if"] == "github.event_name == 'push'"


def test_a_release_runs_only_pinned_actions() -> None:
    jobs = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_wheels_are_tested_with_what_can_run_there() -> None:
    """A skipped test fails, and some tests need an environment that only `make test` makes."""
    jobs = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]
    tests = tool("test_pythons").tests
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    runs = [re.search(r'TESTS="(.*)"', run) for run in steps if run.startswith("make test-wheel")]
    assert len(runs) == 3
    mark = "`make test` installs the packages"
    need_packages = [path for path in (ROOT / "tests").rglob("test_*.py") if f'="{mark}"' in path.read_text()]
    assert len(need_packages) == 2
    for run in runs:
        arguments = tests("newest", run[1].split() if run else [])
        assert all(f"--ignore={path.relative_to(ROOT)}" in arguments for path in need_packages)


def imported(path: Path) -> set[str]:
    """The modules that a file imports when it is imported itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_other_systems_get_what_their_tests_import() -> None:
    jobs = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]
    steps = [step.get("run", "") for step in jobs["test-elsewhere"]["steps"]]
    installed = {re.sub(r"[\"\[].*", "", word) for run in steps for word in run.split() if "pip" in run}
    installed |= {re.split(r"[\[<>=]", item)[0] for item in PROJECT["dependencies"]}
    installed |= set(PROJECT["optional-dependencies"])
    waiting = [ROOT / name for name in re.findall(r"tests/\S+\.py", steps[-1])]
    waiting.append(ROOT / "tests" / "conftest.py")
    seen: set[str] = set()
    for path in waiting:
        for name in imported(path) - seen:
            seen.add(name)
            if (helper := ROOT / "tests" / "support" / f"{name}.py").exists():
                waiting.append(helper)
    helpers = {path.stem for path in waiting}
    packages = importlib.metadata.packages_distributions()
    for name in seen - helpers - set(sys.stdlib_module_names) - {"sse_hub"}:
        assert installed & {re.sub("_", "-", each).lower() for each in packages[name]}, name


def test_the_readme_of_the_package_links_into_the_repository() -> None:
    readme = tool("package_readme").packaged((ROOT / "README.md").read_text(), "2.0.0")
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert "https://github.com/sse-hub/sse-hub/blob/v2.0.0/docs/index.md" in links
    assert "https://raw.githubusercontent.com/sse-hub/sse-hub/v2.0.0/bench/results/fanout.svg" in links
    assert all(link.startswith(("https://", "#")) for link in links)


def test_the_source_distribution_is_complete(tmp_path: Path) -> None:
    maturin = Path(sys.executable).with_name("maturin")
    subprocess.run([maturin, "sdist", "-o", tmp_path], cwd=ROOT, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        top = f"sse_hub-{CRATE['version']}"
        names = {name.removeprefix(f"{top}/") for name in packed.getnames()}
        for path in (ROOT / "Cargo.toml", ROOT / "Cargo.lock", ROOT / "pyproject.toml", ROOT / "LICENSE"):
            content = packed.extractfile(f"{top}/{path.name}")
            assert content
            assert content.read() == path.read_bytes()
    for pattern in (
        "src/**/*.rs",
        "python/**/*.py*",
        "python/**/*.js",
        "docs/**/*.*",
        "*.md",
        "clients/js/*",
    ):
        wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.suffix != ".pyc"}
        assert wanted
        assert wanted <= names
    assert [name for name in names if re.search(r"__pycache__|\.so$|^target/|/results/.*json", name)] == []


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
