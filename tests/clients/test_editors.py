"""What an editor offers while a call is written, asked of the language server that many editors use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT
from sse_hub.hub import FollowOptions, StreamOptions, SubscribeOptions

SERVER = Path(sys.prefix) / "node" / "node_modules" / "pyright" / "langserver.index.js"

SUBSCRIBE = set(SubscribeOptions.__annotations__)
STREAM = set(StreamOptions.__annotations__)
FOLLOW = set(FollowOptions.__annotations__)
# Each call is completed behind its last comma.
CALLS = {
    'hub.subscribe("prices", )': SUBSCRIBE,
    'hub.response("prices", )': STREAM,
    'hub.endpoint("prices", )': {*STREAM, "methods"},
    'hub.follow("answer", )': {*FOLLOW, "format"},
}


class LanguageServer:
    """pyright, over its protocol of messages with a length before each."""

    def __init__(self, folder: Path) -> None:
        assert SERVER.exists(), "pyright is missing: make .venv/.node-ready"
        settings = {"pythonPath": sys.executable, "extraPaths": [str(ROOT / "python")]}
        (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": settings["extraPaths"]}))
        self._settings = {"python": settings}
        command = ["node", str(SERVER), "--stdio"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._asked = 0
        root = {"uri": folder.as_uri(), "name": "program"}
        capabilities = {"workspace": {"configuration": True}}
        self.ask(
            "initialize", processId=None, rootUri=None, workspaceFolders=[root], capabilities=capabilities
        )
        self.tell("initialized")

    def _write(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        length = 0
        while header := self._process.stdout.readline().strip():
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the language server ended"
        return json.loads(self._process.stdout.read(length))

    def tell(self, method: str, **params: Any) -> None:
        self._write(method=method, params=params)

    def ask(self, method: str, **params: Any) -> Any:
        """The server's answer; its own questions in between are about settings."""
        self._asked += 1
        self._write(id=self._asked, method=method, params=params)
        while True:
            message = self._read()
            if "method" not in message and message.get("id") == self._asked:
                return message["result"]
            if "method" in message and "id" in message:
                items = message.get("params", {}).get("items", [])
                answer = [self._settings.get(item.get("section"), {}) for item in items]
                self._write(id=message["id"], result=answer)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LanguageServer]:
    server = LanguageServer(tmp_path)
    yield server
    server.close()


def test_options_are_offered_in_calls(server: LanguageServer, tmp_path: Path) -> None:
    lines = ["from sse_hub import Hub", "hub = Hub()", *CALLS]
    uri = (tmp_path / "program.py").as_uri()
    document = {"uri": uri, "languageId": "python", "version": 1, "text": "\n".join(lines)}
    server.tell("textDocument/didOpen", textDocument=document)
    for number, (call, options) in enumerate(CALLS.items(), start=2):
        place = {"line": number, "character": len(call) - 1}
        answer = server.ask("textDocument/completion", textDocument={"uri": uri}, position=place)
        offered = {item["label"].removesuffix("=") for item in answer["items"] if item["label"].endswith("=")}
        assert options <= offered, call
        assert not offered & (STREAM - options), call
        help_ = server.ask("textDocument/signatureHelp", textDocument={"uri": uri}, position=place)
        assert help_["signatures"][0]["documentation"], call
