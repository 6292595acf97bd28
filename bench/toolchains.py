"""Peers that are not Python: built on first use, or named as not to be had."""

import os
import resource
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
BUILD = PEERS / "build"
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


class Unavailable(Exception):
    """The server cannot be had on this machine; the message says why."""


def _run(command: list[str], cwd: Path = ROOT, **environment: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout + done.stderr


def _need(program: str, package: str) -> None:
    """Install a Debian package where its program is missing and that is possible."""
    if shutil.which(program) is None:
        _run(["sh", "tools/system-packages.sh", package])


@cache
def go() -> None:
    """The Go hub: the standard library only, so nothing is fetched."""
    _need("go", "golang-go")
    BUILD.mkdir(exist_ok=True)
    _run(["go", "build", "-o", str(BUILD / "hub"), "."], PEERS / "go", GOPROXY="off", GOTOOLCHAIN="local")


@cache
def crate(name: str) -> None:
    """A peer that is a Rust crate of its own, at the versions of its lock file."""
    _run(["cargo", "build", "--release", "--quiet", "--locked"], PEERS / name, CARGO_TARGET_DIR="target")


@cache
def node() -> None:
    """Node, whichever is installed; else Debian's."""
    _need("node", "nodejs")


@cache
def nchan() -> None:
    """nginx and Debian's nchan module, which is loaded by this benchmark's configuration only."""
    _need("nginx", "nginx-light")
    if not NCHAN_MODULE.exists():
        _run(["sh", "tools/system-packages.sh", "libnginx-mod-nchan"])


@cache
def redis() -> None:
    """A Redis server of Debian's, where none is installed."""
    _need("redis-server", "redis-server")


@cache
def hiredis() -> None:
    """Redis, and the C parser that redis-py's documentation advises."""
    from redis.utils import HIREDIS_AVAILABLE

    redis()
    if not HIREDIS_AVAILABLE:
        raise Unavailable("hiredis: the dependency group `bench` has it")


def resumable_stream() -> None:
    """The same, and the package."""
    hiredis()
    if find_spec("resumable_stream") is None:
        raise Unavailable("resumable-stream: the dependency group `bench` has it")


def redis_version() -> dict[str, str]:
    """The server's version."""
    return {"Redis": _run(["redis-server", "--version"]).split("v=")[1].split()[0]}


def binary(name: str) -> str:
    """The program of a peer that is a crate."""
    return str(PEERS / name / "target" / "release" / f"peer-{name}")


def nchan_configuration(port: int, directory: Path) -> list[str]:
    """Write nginx's configuration into the directory; the command that runs it."""
    values = {
        "PORT": str(port),
        "DIRECTORY": str(directory),
        "MODULE": str(NCHAN_MODULE),
        "FILES": str(min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
        # Its workers must reach the companion's socket in a directory that is this user's alone.
        "USER": "user root;" if os.geteuid() == 0 else "",
    }
    text = (PEERS / "nchan" / "nginx.conf").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    path = directory / "nginx.conf"
    path.write_text(text)
    return ["nginx", "-p", str(directory), "-e", "stderr", "-c", str(path)]


def go_version() -> dict[str, str]:
    """The compiler's version."""
    return {"Go": _run(["go", "version"]).split()[2].removeprefix("go")}


def node_version() -> dict[str, str]:
    """The runtime's version."""
    return {"Node": _run(["node", "--version"]).strip().removeprefix("v")}


def nchan_version() -> dict[str, str]:
    """nginx's own, and Debian's of the module."""
    package = _run(["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"])
    return {"nginx": _run(["nginx", "-v"]).strip().rpartition("/")[2], "nchan": package.strip()}


def crate_versions(name: str, *of: str) -> dict[str, str]:
    """rustc's version and those of a peer's dependencies, from its lock file."""
    found = {"rustc": _run(["rustc", "--version"]).split()[1]}
    lines = (PEERS / name / "Cargo.lock").read_text().splitlines()
    for line, following in pairwise(lines):
        for dependency in of:
            if line == f'name = "{dependency}"':
                found[dependency] = following.split('"')[1]
    return found
