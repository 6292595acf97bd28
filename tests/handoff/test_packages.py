"""Behind the middleware of real packages a stream leaves the server or stays, as the page says, unharmed.

The packages are in an environment of their own, which `make test` sets up: agents instrument all that runs
beside them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT
from servers import IMPORTS, Client, Command, free_port, run

PACKAGES = Path(sys.prefix) / "packages" / "bin"
PROGRAM = str(ROOT / "tests" / "support" / "packages_check.py")
# Where each package may not call home.
ENVIRONMENT = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:1",
    "NEW_RELIC_APP_NAME": "x",
    "NEW_RELIC_DEVELOPER_MODE": "true",
    "NEW_RELIC_LICENSE_KEY": "0" * 40,
    "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), IMPORTS]),
}
COMMANDS = {
    "shared": [],
    "sentry": [],
    "newrelic": [str(PACKAGES / "newrelic-admin"), "run-program"],
    "ddtrace": [str(PACKAGES / "ddtrace-run")],
}

pytestmark = pytest.mark.skipif(
    not (PACKAGES / "python").exists(), reason="`make test` installs the packages"
)


def table() -> dict[str, str]:
    """What the page says of each package."""
    page = (ROOT / "docs" / "hand-off.md").read_text()
    rows = page.partition("## Behind other packages")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (handed off|stays)", rows, re.MULTILINE))


def play(group: str) -> dict[str, Any]:
    args = [*COMMANDS[group], str(PACKAGES / "python"), PROGRAM, group]
    done = subprocess.run(
        args, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def groups() -> Iterator[list[Future[dict[str, Any]]]]:
    """The packages in processes, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield [pool.submit(play, group) for group in COMMANDS]


@pytest.fixture(scope="module")
def outcomes(groups: list[Future[dict[str, Any]]]) -> dict[str, Any]:
    return {name: outcome for group in groups for name, outcome in group.result().items()}


def test_the_table_has_every_package(outcomes: dict[str, Any]) -> None:
    assert set(table()) == set(outcomes) - {"nothing"}


@pytest.mark.parametrize("name", table())
def test_a_stream_behind_it(name: str, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[name]
    if table()[name] == "handed off":
        assert (outcome["path"], outcome["stayed"]) == ("reactor", {})
    else:
        assert (outcome["path"], outcome["stayed"]) == ("loop", {"middleware": 2})


@pytest.mark.parametrize("name", table())
def test_a_compressed_stream_behind_it_is_compressed_once(name: str, outcomes: dict[str, Any]) -> None:
    assert outcomes[name]["coding"] == ("br" if name == "brotli-asgi" else "gzip")


def test_fastapi_run_needs_no_option() -> None:
    port = free_port()
    app = str(ROOT / "tests" / "support" / "reactor_app.py")
    args = [str(PACKAGES / "python"), "-m", "fastapi", "run", app, "--port", str(port)]
    command = Command(args, listening="running", port=port, env={"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]})
    with run(command) as server, Client(server.port, "/events") as client:
        client.read_until(b"stream-open")
        with Client(server.port, "/publish?data=x") as other:
            other.read_until(b"published to reactor.")
