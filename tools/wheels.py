"""Build the wheels that Linux can build into dist/, one for each Python, and check them.

    python tools/wheels.py                 every Python, for glibc 2.17 (manylinux2014) and for musl 1.2
    python tools/wheels.py 3.14t --for glibc

Zig links against an old glibc and against musl, on any Linux. Each Python has a wheel of its own, because the
stable ABI makes the encoder 4 to 10 % slower.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pythons import get
from test_pythons import VERSIONS

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
LIMIT = 2_500_000
"""Bytes of a wheel at most."""

LIBRARIES = {"glibc": ("gnu", "manylinux2014"), "musl": ("musl", "musllinux_1_2")}


def build(interpreter: Path, target: str, policy: str) -> Path:
    """A wheel for one Python; maturin refuses it if it needs more than the policy allows."""
    maturin = Path(sys.executable).with_name("maturin")
    command: list[str | Path] = [maturin, "build", "--release", "--locked", "--quiet"]
    command += ["--zig", "--target", target]
    with tempfile.TemporaryDirectory(dir=DIST) as folder:
        command += ["--compatibility", policy, "-i", interpreter, "-o", folder]
        subprocess.run(command, cwd=ROOT, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        # Zopfli's search for the shortest deflate stream: 2.6 % smaller than maturin's highest level.
        subprocess.run(["advzip", "-z", "-4", "-i", "5", "--quiet", wheel], check=True)
        return wheel.rename(DIST / wheel.name)


def check(wheel: Path) -> None:
    """That a wheel is small, has what it must have, and nothing else."""
    size = wheel.stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{wheel.name} has {size:,} bytes; the limit is {LIMIT:,}")
    names = zipfile.ZipFile(wheel).namelist()
    (extension,) = [name for name in names if name.endswith(".so")]
    wanted = {"sse_hub/py.typed", "sse_hub/_core.pyi", "sse_hub/_client/sse-hub.min.js"}
    if not wanted <= set(names):
        raise SystemExit(f"{wheel.name} lacks {', '.join(sorted(wanted - set(names)))}")
    if strays := [name for name in names if not name.startswith(("sse_hub/", "sse_hub-"))]:
        raise SystemExit(f"{wheel.name} has {', '.join(strays)} besides")
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", wheel], capture_output=True, text=True, check=True
    )
    print(f"{wheel.name}: {size:,} bytes, {extension}\n{shown.stdout.strip()}\n", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"{', '.join(VERSIONS)} [all]")
    parser.add_argument("--for", dest="libraries", choices=LIBRARIES, action="append", help="[both]")
    args = parser.parse_args()
    DIST.mkdir(exist_ok=True)
    installed = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True
    ).stdout.strip()
    for library in args.libraries or LIBRARIES:
        system, policy = LIBRARIES[library]
        target = f"{platform.machine()}-unknown-linux-{system}"
        if not (Path(installed) / "lib" / "rustlib" / target).is_dir():
            if not shutil.which("rustup"):
                raise SystemExit(f"missing: Rust's library for {target}, or rustup to fetch it")
            subprocess.run(["rustup", "-q", "target", "add", target], check=True)
        for version in args.versions or VERSIONS:
            check(build(get(version), target, policy))
    return 0


if __name__ == "__main__":
    sys.exit(main())
