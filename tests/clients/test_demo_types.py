"""The demo's own JavaScript, and what it takes from the client, checked by TypeScript."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pages import ROOT

TSC = Path(sys.prefix) / "node" / "node_modules" / ".bin" / "tsc"
PROGRAMS = sorted((ROOT / "examples" / "demo" / "static" / "js").glob("*.js"))


def test_the_types_of_the_demo_fit(tmp_path: Path) -> None:
    assert all(program.read_text().startswith("// @ts-check\n") for program in PROGRAMS)
    settings = {
        "strict": True,
        "noEmit": True,
        "allowJs": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "types": [],
        "lib": ["es2022", "dom", "dom.iterable"],
        # The page imports it from the hub.
        "paths": {"/sse-hub.js": [str(ROOT / "clients" / "js" / "index.d.ts")]},
    }
    config = {"compilerOptions": settings, "files": [str(program) for program in PROGRAMS]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config))
    done = subprocess.run([TSC, "-p", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
