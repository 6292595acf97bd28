"""``sse_hub.as_sse_starlette``: programs that import sse-starlette themselves stream with sse-hub.

The published MCP server and client are in the environment of packages that `make test` sets up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pages import ROOT
from servers import IMPORTS, Command, ServerProcess, run
from waiting import PATIENCE

PYTHON = str(Path(sys.prefix) / "packages" / "bin" / "python")
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT / "python"), IMPORTS])}
ACCEPT = {"Accept": "application/json, text/event-stream"}

in_packages = pytest.mark.skipif(not Path(PYTHON).exists(), reason="`make test` installs the packages")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(arguments or ("-c", code))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_the_alias_is_sse_hub_under_each_of_sse_starlette_s_names() -> None:
    code = """
import sse_hub.as_sse_starlette, sse_hub, sse_hub.sse, sse_hub.event
import sse_starlette, sse_starlette.sse
from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from sse_starlette.sse import AppStatus, ensure_bytes
from sse_starlette.event import ServerSentEvent as Event
import sse_hub.as_sse_starlette as again
again.install()
assert EventSourceResponse is sse_hub.EventSourceResponse and Event is sse_hub.ServerSentEvent
assert sse_starlette.sse is sse_hub.sse and sse_starlette.__version__ == again.API
try:
    import sse_starlette.nothing
except ModuleNotFoundError as error:
    print(error)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "No module named 'sse_starlette.nothing'" in done.stdout


def test_an_import_that_comes_too_late_is_an_error() -> None:
    done = python("import sse_starlette, sse_hub.as_sse_starlette")
    assert "ImportError: sse_starlette was imported before sse_hub.as_sse_starlette" in done.stderr


def test_a_script_and_a_module_run_as_by_python(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("name = 'beside'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, beside, sse_starlette\n"
        "print(__name__, beside.name, sys.argv[1:], sse_starlette.EventSourceResponse.__module__)\n"
    )
    done = python("", "-m", "sse_hub.as_sse_starlette", str(script), "-m", "x")
    assert done.stdout == "__main__ beside ['-m', 'x'] sse_hub._responses.event_source_response\n", (
        done.stderr
    )
    assert "json.tool" in python("", "-m", "sse_hub.as_sse_starlette", "-m", "json.tool", "--help").stdout
    (tmp_path / "__main__.py").write_text("import sys; print(__name__, sys.path[0] == sys.argv[0])\n")
    done = python("", "-m", "sse_hub.as_sse_starlette", str(tmp_path))
    assert done.stdout == "__main__ True\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "usage:"),
        (["-m"], "usage:"),
        (["-x"], "usage:"),
        (["uvicorn", "main:app"], "can't open file '.*uvicorn': .*; a module is run by -m NAME"),
        (["-m", "nothing.there"], "No module named 'nothing'"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], error: str) -> None:
    done = python("", "-m", "sse_hub.as_sse_starlette", *arguments)
    assert done.returncode == 1
    assert re.match(error, done.stderr), done.stderr


def mcp_server(*options: str) -> Command:
    uvicorn = ["-m", "uvicorn", "mcp_app:app", "--port", "0", *options]
    return Command([PYTHON, "-m", "sse_hub.as_sse_starlette", *uvicorn], env=ENVIRONMENT)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with run(mcp_server()) as running:
        yield running


def post(http: httpx.Client, session: dict[str, str], method: str, **params: Any) -> httpx.Response:
    call = {"jsonrpc": "2.0", "method": method, "params": params}
    if not method.startswith("notifications/"):
        call["id"] = 1
    response = http.post("/mcp", json=call, headers=ACCEPT | session)
    assert response.status_code in (200, 202), response.text
    return response


def connect(http: httpx.Client) -> dict[str, str]:
    """Begin a session of the streamable transport; gives the headers of its requests."""
    version = "2025-06-18"
    info = {"name": "test", "version": "1"}
    first = post(http, {}, "initialize", protocolVersion=version, capabilities={}, clientInfo=info)
    session = {"Mcp-Session-Id": first.headers["Mcp-Session-Id"], "MCP-Protocol-Version": version}
    post(http, session, "notifications/initialized")
    return session


@in_packages
def test_the_published_mcp_client_reads_both_transports(server: ServerProcess) -> None:
    url = f"http://127.0.0.1:{server.port}"
    classes = httpx.get(f"{url}/classes", trust_env=False).json()
    assert set(classes) == {"sse_hub._responses.event_source_response"}
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests" / "support" / "mcp_check.py"), url],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["name"] for report in reports] == ["streamable", "sse"]
    for report in reports:
        assert report["progress"] == list(range(1, 51))
        assert report["text"] == "counted to 50"


@in_packages
def test_an_mcp_stream_is_resumed(server: ServerProcess) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE, trust_env=False) as http:
        session = connect(http)
        meta = {"progressToken": 1}
        answer = post(http, session, "tools/call", name="count", arguments={"to": 20}, _meta=meta).text
        blocks = [block for block in re.split(r"\r\n\r\n", answer) if "jsonrpc" in block]
        assert len(blocks) == 21
        last = re.search(r"id: (\d+)", blocks[4])
        assert last is not None
        again = ACCEPT | session | {"Last-Event-ID": last[1]}
        with http.stream("GET", "/mcp", headers=again) as resumed:
            text = ""
            for part in resumed.iter_text():
                text += part
                if "counted to 20" in text:
                    break
    assert [block for block in re.split(r"\r\n\r\n", text) if "jsonrpc" in block] == blocks[5:]


@in_packages
def test_a_stop_ends_an_open_mcp_stream(server: ServerProcess) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE, trust_env=False) as http:
        session = connect(http)
        with http.stream("GET", "/mcp", headers=ACCEPT | session) as listening:
            assert listening.status_code == 200
            server.process.send_signal(signal.SIGTERM)
            assert [part for part in listening.iter_bytes() if b"jsonrpc" in part] == []
    server.wait()
    assert "Traceback" not in server.output


@in_packages
def test_spawned_workers_have_the_alias_too() -> None:
    command = mcp_server("--workers", "2")
    command.processes = 2
    with run(command) as server:
        classes = httpx.get(f"http://127.0.0.1:{server.port}/classes", trust_env=False).json()
    assert set(classes) == {"sse_hub._responses.event_source_response"}
