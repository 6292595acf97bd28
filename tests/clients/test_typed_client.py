"""The TypeScript client that Hey API generates for the program of docs/typed-channels.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pages import Block, exercises, find

NODE = Path(sys.prefix) / "node"
BIN = NODE / "node_modules" / ".bin"
SETTINGS = {
    "strict": True,
    "target": "es2022",
    "module": "esnext",
    "moduleResolution": "bundler",
    "types": [],
}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@exercises("typed-channels.md", "Typed channels")
def test_a_generated_client_compiles_and_reads_the_stream(block: Block, tmp_path: Path) -> None:
    names = block.run()
    [program] = find("typed-channels.md", "In OpenAPI", "ts")
    (tmp_path / "openapi.json").write_text(json.dumps(names["app"].openapi()))
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    run(BIN / "openapi-ts", "-i", "openapi.json", "-o", "client", cwd=tmp_path)
    (tmp_path / "program.ts").write_text(program.text)
    (tmp_path / "wrong.ts").write_text(program.text.replace("event.price)", "event.prize)"))
    settings = SETTINGS | {"lib": ["es2022", "dom", "dom.iterable"], "outDir": "out"}
    for source in ("program", "wrong"):
        files = {"compilerOptions": settings, "files": [f"{source}.ts"]}
        (tmp_path / f"{source}.json").write_text(json.dumps(files))
    run(BIN / "tsc", "-p", "program.json", cwd=tmp_path)
    wrong = subprocess.run(
        [BIN / "tsc", "-p", "wrong.json", "--noEmit"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Property 'prize' does not exist on type 'Tick'" in wrong.stdout
    types = (tmp_path / "client" / "types.gen.ts").read_text()
    assert "200: Tick | Halt;" in types
