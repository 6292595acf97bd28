"""Builds and runs the load generator."""

import json
import os
import subprocess
from typing import Any

from bench.servers import ROOT, pinned

CRATE = ROOT / "bench" / "loadgen"
BINARY = CRATE / "target" / "release" / "sse-loadgen"


def build() -> None:
    """Compile the load generator; quick when nothing changed."""
    # Where BINARY is looked for, whatever the environment says.
    environment = os.environ | {"CARGO_TARGET_DIR": "target"}
    command = ["cargo", "build", "--release", "--quiet", "--locked"]
    subprocess.run(command, cwd=CRATE, env=environment, check=True)


def run(mode: str, pid: int, port: int, cores: str | None, **options: object) -> dict[str, Any]:
    """One run; the options are the load generator's, None leaves its default.

    Returns its report. RuntimeError with its message where it could not measure at all.
    """
    command = [str(BINARY), mode, "--addr", f"127.0.0.1:{port}", "--pid", str(pid)]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(pinned(command, cores), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    report: dict[str, Any] = json.loads(done.stdout)
    return report
