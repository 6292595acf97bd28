"""The module that hubs serve, under Node, and its package for npm."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from pages import ROOT

CLIENT = ROOT / "clients" / "js"
HERE = Path(__file__).parent
NODE = Path(sys.prefix) / "node"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_keeps_the_protocol_under_node() -> None:
    run("node", "--test", HERE / "js_client.test.mjs")


def test_the_served_module_is_the_source_and_small() -> None:
    run("node", CLIENT / "build.mjs", "--check")


def test_the_package_is_complete(tmp_path: Path) -> None:
    run("npm", "pack", "--silent", "--offline", "--pack-destination", tmp_path, cwd=CLIENT)
    [packed] = tmp_path.glob("*.tgz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "node_modules", filter="data")
    package = tmp_path / "node_modules" / "package"
    manifest = json.loads((package / "package.json").read_text())
    assert manifest["version"] == tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    assert sorted(path.name for path in package.iterdir()) == [
        "LICENSE",
        "README.md",
        "index.d.ts",
        "package.json",
        "sse-hub.js",
    ]
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    package.rename(package.with_name(manifest["name"]))
    (tmp_path / "types.mts").write_text((HERE / "js_client_types.ts").read_text())
    settings = {"strict": True, "noEmit": True, "target": "es2022", "module": "nodenext", "types": []}
    settings["lib"] = ["es2022", "dom", "dom.iterable"]
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": settings, "files": ["types.mts"]}))
    run("node", NODE / "node_modules" / "typescript" / "bin" / "tsc", cwd=tmp_path)
    program = 'import { connect } from "sse-hub"; console.log(typeof connect)'
    assert run("node", "--input-type=module", "-e", program, cwd=tmp_path) == "function\n"
