"""Find or get CPythons, and print the path of each interpreter.

    python tools/pythons.py 3.12 3.14t

An interpreter is taken from PATH, pyenv or the cache. One that is in none of them is made in the cache,
on Debian as root: a Python with a GIL by unpacking the packages of Debian's newer suites, with their C
library; a free-threaded one, which Debian does not have, from the source of the same package. The cache is
``$SSE_HUB_CACHE``, or ``~/.cache/sse-hub``; a source archive that lies in its ``sources`` is used as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("SSE_HUB_CACHE") or Path.home() / ".cache" / "sse-hub")
SUITES = ("sid", "forky", "trixie")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
TRIPLET = "x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"

ASK = """\
import sys, sysconfig
print("%d.%d" % sys.version_info[:2] + "t" * bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
print(sys.executable)
"""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """A command's output; what it prints besides is shown only if it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        raise SystemExit(f"failed with {done.returncode}: {' '.join(str(part) for part in command)}")
    return done.stdout


def ask(interpreter: Path, version: str) -> Path | None:
    """The interpreter behind this path, if it starts and is this Python; a shim of pyenv may be neither."""
    try:
        asked = subprocess.run(
            [interpreter, "-c", ASK], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return None
    said, _, executable = asked.stdout.strip().partition("\n")
    return Path(executable) if said == version else None


def find(version: str) -> Path | None:
    """An interpreter of this version that is already there."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    bare = version.removesuffix("t")
    candidates = [
        *(Path(folder) / name for folder in os.environ.get("PATH", "").split(os.pathsep) if folder),
        *sorted(pyenv.glob(f"{bare}.*/bin/{name}"), reverse=True),
        CACHE / version / "usr" / "bin" / name,
    ]
    asked = (ask(path, version) for path in candidates if path.is_file())
    return next((path for path in asked if path is not None), None)


def apt_environment() -> dict[str, str]:
    """Settings under which apt reads the newer suites, and neither reads nor changes what the system has."""
    if not KEYRING.exists() or not shutil.which("apt-get"):
        raise SystemExit(
            "only on Debian: elsewhere install the missing Pythons, for instance with pyenv or uv"
        )
    home = CACHE / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    lines = [
        f"{kind} [signed-by={KEYRING}] {MIRROR} {suite} main"
        for suite in SUITES
        for kind in ("deb", "deb-src")
    ]
    (home / "sources.list").write_text("\n".join(lines) + "\n")
    (home / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{home}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{home}/lists";\nDir::State::status "{home}/status";\n'
        f'Dir::Cache::archives "{home}/archives";\nDir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
        'APT::Install-Recommends "0";\nAPT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(home / "apt.conf")}
    run("apt-get", "update", "-q", env=environment)
    return environment


def unpack_packages(version: str) -> Path:
    """Unpack Debian's packages of a Python into the cache, with the C library that they were built for."""
    if not shutil.which("patchelf"):
        raise SystemExit("missing: patchelf (apt-get install patchelf)")
    environment = apt_environment()
    archives, target = CACHE / "apt" / "archives", CACHE / version
    for old in archives.glob("*.deb"):
        old.unlink()
    names = [f"python{version}", f"python{version}-venv"]
    run("apt-get", "install", "-q", "-y", "--download-only", *names, env=environment)
    shutil.rmtree(target, ignore_errors=True)
    for package in sorted(archives.glob("*.deb")):
        run("dpkg-deb", "-x", package, target)
    libraries, interpreter = target / "usr" / "lib" / TRIPLET, target / "usr" / "bin" / f"python{version}"
    # An RPATH, unlike a RUNPATH, also holds for what the libraries and the extensions load.
    run(
        *("patchelf", "--set-interpreter", (libraries / LOADER).resolve()),
        *("--force-rpath", "--set-rpath", libraries, interpreter),
    )
    return interpreter


def get_source(package: str, folder: Path) -> None:
    """Get the newest source archive of a package that the mirror has: its lists may be ahead of its files."""
    environment = apt_environment()
    shown = run("apt-cache", "showsrc", "--only-source", package, env=environment)
    versions = re.findall(r"^Version: (.+)$", shown, re.MULTILINE)
    command = ["apt-get", "source", "-q", "--download-only", "--tar-only"]
    for version in sorted(versions, key=lambda text: [int(part) for part in re.findall(r"\d+", text)])[::-1]:
        got = subprocess.run(
            [*command, f"{package}={version}"], cwd=folder, env=environment, capture_output=True, check=False
        )
        if got.returncode == 0:
            return
    raise SystemExit(f"no source of {package} could be fetched, of the versions {', '.join(versions)}")


def build_source(version: str) -> Path:
    """Compile a Python into the cache, without the hours that its optimised build takes."""
    bare, sources, target = version.removesuffix("t"), CACHE / "sources", CACHE / version
    sources.mkdir(parents=True, exist_ok=True)
    if not any(sources.glob(f"python{bare}_*.orig.tar.xz")):
        get_source(f"python{bare}", sources)
    archive = max(sources.glob(f"python{bare}_*.orig.tar.xz"))
    tree = sources / version
    tree.mkdir(exist_ok=True)
    run("tar", "-xf", archive, "-C", tree, "--strip-components=1")
    options = ["--disable-gil"] if version.endswith("t") else []
    run(tree / "configure", "-q", f"--prefix={target / 'usr'}", *options, cwd=tree)
    run("make", "-s", f"-j{os.cpu_count()}", "OPT=-DNDEBUG -O1", cwd=tree)
    run("make", "-s", "install", "OPT=-DNDEBUG -O1", cwd=tree)
    return target / "usr" / "bin" / f"python{version}"


def get(version: str) -> Path:
    """An interpreter of this version, made if there is none."""
    found = find(version)
    if found is None:
        print(f"getting Python {version} into {CACHE}", file=sys.stderr)
        found = build_source(version) if version.endswith("t") else unpack_packages(version)
        if ask(found, version) is None:
            raise SystemExit(f"{found} is not a working Python {version}")
    return found


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(get(wanted))
