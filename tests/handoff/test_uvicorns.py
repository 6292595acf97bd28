"""Streams leave every uvicorn from 0.34 on: `make test-uvicorns` installs them and passes their versions.

Without it, the installed version is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version as installed

import pytest
from servers import IMPORTS, ROOT

VERSIONS = os.environ.get("SSE_HUB_UVICORNS", "").split() or [installed("uvicorn")]


@pytest.mark.parametrize("version", VERSIONS)
def test_streams_leave_it(version: str) -> None:
    path = os.pathsep.join([str(ROOT / "target" / "uvicorns" / version), IMPORTS])
    program = [sys.executable, str(ROOT / "tests" / "support" / "handing_check.py")]
    done = subprocess.run(
        program, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *servers, last = done.stdout.splitlines()
    assert last == f"uvicorn {version}"
    assert len(servers) == 8
    for line in servers:
        assert line.endswith(": handed off 3, stayed {'pipelined': 1}")
