"""Run the tests on other Pythons: from a wheel, in a clean environment, with the newest and oldest packages.

Before the tests' own packages are installed, README's first program runs there, with what a user has.

    python tools/test_pythons.py                        every Python, newest and oldest
    python tools/test_pythons.py 3.14t --with newest    one of them
    python tools/test_pythons.py 3.12 -- tests/api      what follows goes to pytest
    python tools/test_pythons.py 3.12 --profile checkout   built in a minute or two, as `make build` does
    python tools/test_pythons.py --here --wheels dist   the Python that runs this, with a wheel that is there

The newest are those of the group `dev` in pyproject.toml. The oldest are the lower bounds that pyproject.toml
gives users, with the rest of the group beside them. Pythons that are missing are got by pythons.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from urllib.request import Request, urlopen

from pythons import CACHE, get
from snippets import programs

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.14t", "3.15")
KINDS = ("newest", "oldest")

NOT_TESTED_WITH = {"maturin", "mypy", "openai", "playwright", "ruff", "types-psutil"}
"""What `dev` has for the rooms that are not run here, and for other targets of make."""

UNTIED = {"sse-starlette"}
"""What tests use that asks for newer packages than the oldest, and works with those as well."""

OLDER = {"uvicorn-worker": "uvicorn-worker==0.3.0"}
"""What goes with the oldest only in an older version."""

NEWER = [
    # FastAPI's own events, and generators as endpoints.
    "tests/api/test_channels.py::test_openapi_describes_each_event_as_fastapi_describes_its_own",
    "tests/api/test_publish.py::test_fastapi_s_events_mean_what_they_mean_there",
    "tests/api/test_refusals.py::test_a_wrong_event_of_fastapi_s_is_refused",
    "tests/asgi/test_event_source_response_apps.py::test_fastapi_answers_as_with_the_peer",
    "tests/asgi/test_event_source_response_apps.py::test_a_client_that_leaves_a_fastapi_generator",
    # FastAPI's names of models that contain themselves.
    "tests/api/test_channels.py::test_openapi_describes_models_that_contain_themselves_and_plain_types",
    # An option of Starlette's GZipMiddleware.
    "tests/handoff/test_refused.py::test_a_compressing_middleware_prevents_it",
    # Of uvicorn: an option, `http=` as a string with a colon, and an address with a port in its log.
    "tests/brokers/test_broker_publish.py::test_workers_of_one_server_are_one_hub",
    *(
        f"tests/handoff/test_taken.py::test_the_connection_leaves_the_server_and_goes_on[{loop}-{way}]"
        for loop in ("asyncio", "uvloop")
        for way in ("protocol", "both")
    ),
    "tests/handoff/test_taken.py::test_h11_is_used_where_httptools_is_missing",
    "tests/handoff/test_taken.py::test_the_access_log_has_the_address_from_the_proxy",
    # A loop of asyncio's after one of uvloop in the same process.
    "tests/asgi/test_pump_nested.py::test_a_client_that_leaves_meanwhile_ends_the_content",
    "tests/asgi/test_pump_nested.py::test_pings_go_on_afterwards",
    "tests/asgi/test_pump_nested.py::test_the_loop_rests_meanwhile_while_events_are_held",
]
"""Tests that use what the oldest packages do not have."""

TOGETHER = {"opentelemetry-sdk": "opentelemetry-api"}
"""What tests use that goes only with the same version of what is promised."""

USERS = "sse-hub[fastapi,uvicorn]"
"""What README installs."""

JSON = {"Content-Type": "application/json"}

# The rooms where Python's version can matter.
ROOMS = [f"tests/{room}" for room in ("api", "asgi", "brokers", "handoff", "stopping")]
PARALLEL = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]  # as in `make test`

NOT_HERE = ["tests/handoff/test_packages.py", "tests/asgi/test_as_sse_starlette.py"]
"""What needs the environment of packages of `make test`."""


def name_of(requirement: str) -> str:
    """The package that a requirement is about."""
    return re.split(r"[\[<>=!~ ;]", requirement)[0]


def oldest() -> dict[str, list[str]]:
    """The lower bounds that users are promised, as exact requirements, by name."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    bounds: dict[str, list[str]] = {}
    for item in (*project["dependencies"], *(item for extra in extras for item in extra)):
        bounds.setdefault(name_of(item), []).append(item.replace(">=", "==", 1))
    for name, other in TOGETHER.items():
        bounds[name] = [item.replace(other, name) for item in bounds[other]]
    return bounds


def requirements(kind: str) -> list[str]:
    """What an environment of this kind gets beside the wheel."""
    group = [item for item in PROJECT["dependency-groups"]["dev"] if name_of(item) not in NOT_TESTED_WITH]
    group.append("pyyaml")
    if kind == "newest":
        return group
    bounds = oldest() | {name: [item] for name, item in OLDER.items()}
    return [item for item in group if name_of(item) not in bounds] + [
        item for items in bounds.values() for item in items
    ]


def build(interpreter: Path, profile: str) -> Path:
    """Build a wheel of the checkout for this Python; the folder it is in."""
    folder = ROOT / "target" / "pythons"
    folder.mkdir(parents=True, exist_ok=True)
    maturin = Path(sys.executable).with_name("maturin")
    command: list[str | Path] = [maturin, "build", "--profile", profile, "--quiet", "--auditwheel", "skip"]
    command += ["-i", interpreter, "-o", folder]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def environment(interpreter: Path, name: str, kind: str, wheels: Path) -> Path:
    """The interpreter of a new environment with the package in it, from a folder of wheels."""
    folder = CACHE / "environments" / name
    subprocess.run([interpreter, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    began = time.monotonic()
    # There is no compiler on this path.
    bare = {**os.environ, "PATH": str(python.parent)}
    own = [*install, "--no-deps", "--no-index", "--only-binary", ":all:", "--find-links", wheels.resolve()]
    subprocess.run([*own, "sse-hub"], check=True, env=bare)
    print(f"{name}: installed in {time.monotonic() - began:.1f} s", flush=True)
    needed = requirements(kind)
    with tempfile.TemporaryDirectory() as temporary:
        versions = Path(temporary) / "versions.txt"
        versions.write_text("\n".join(re.sub(r"\[.*?\]", "", item) for item in needed))
        subprocess.run([*install, "-c", versions, USERS], check=True)
    run_first_program(python)
    print(f"{name}: README's first program runs", flush=True)
    untied = [item for item in needed if name_of(item) in UNTIED]
    subprocess.run([*install, *(item for item in needed if item not in untied)], check=True)
    subprocess.run([*install, "--no-deps", *untied], check=True)
    return python


def run_first_program(python: Path) -> None:
    """Start README's first program as README does, and read the event that it pushes."""
    program, *_ = programs(ROOT / "README.md").values()
    data = {"gold": 2411.5}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.py").write_text(program, encoding="utf-8")
        command = [python, "-m", "uvicorn", "main:app", "--port", "0", "--no-access-log"]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr
            log = ""
            while "running on" not in log:
                if not (line := server.stderr.readline()):
                    raise SystemExit(f"README's first program does not start:\n{log}")
                log += line
            address = re.findall(r"http://\S+", log)[-1]
            try:
                push = Request(f"{address}/push", json.dumps(data).encode(), JSON)
                with urlopen(f"{address}/events", timeout=60) as events:
                    while json.load(urlopen(push, timeout=60)) == {"online": 0}:
                        time.sleep(0.05)
                    received = next(line for line in events if line.startswith(b"data: {"))
                    assert json.loads(received.removeprefix(b"data: ")) == data
            finally:
                server.terminate()


def tests(kind: str, chosen: list[str]) -> list[str]:
    """The arguments of pytest for an environment of this kind: all rooms, or what was chosen."""
    arguments = ["-p", "no:cacheprovider", *PARALLEL, *(f"--ignore={file}" for file in NOT_HERE)]
    if kind == "oldest":  # they use what newer Pythons and packages deprecate
        arguments += ["-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning"]
        arguments += [f"--deselect={test}" for test in NEWER]
    return arguments + (chosen or ROOMS)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("versions", nargs="*", metavar="VERSION", help=f"{', '.join(VERSIONS)} [all]")
    add("--with", dest="kinds", choices=KINDS, action="append", help="[both]")
    add("--here", action="store_true", help="the Python that runs this")
    add("--profile", default="release", help="how it is built [release, as a wheel that is published]")
    add("--wheels", type=Path, metavar="FOLDER", help="where its wheel is [built anew]")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    args, rest = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    versions = ["here"] if args.here else args.versions or list(VERSIONS)
    results: dict[str, int] = {}
    for version in versions:
        interpreter = Path(sys.executable) if args.here else get(version)
        wheels = args.wheels or build(interpreter, args.profile)
        for kind in args.kinds or KINDS:
            name = f"{version}-{kind}"
            python = environment(interpreter, name, kind, wheels)
            command: list[str | Path] = [python, "-m", "pytest", *tests(kind, rest)]
            results[name] = subprocess.run(command, cwd=ROOT, check=False).returncode
    for name, code in results.items():
        print(f"{name}: {'passed' if code == 0 else f'failed ({code})'}")
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main())
