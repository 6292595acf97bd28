"""Debian's Firefox, driven by WebDriver BiDi, with what the stream tests use of Playwright's interface.

Playwright drives only a Firefox of its own. https://www.w3.org/TR/webdriver-bidi/ has the commands.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from servers import free_port
from waiting import PATIENCE, until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FIREFOX = os.environ.get("FIREFOX", "/usr/bin/firefox-esr")
# An expression, or a function that takes the argument, as Playwright takes it.
CALL = """async (argument, until) => {{
    const ask = () => {{
        const made = ({expression});
        return typeof made === "function" ? made(JSON.parse(argument)) : made;
    }};
    const deadline = Date.now() + until;
    while (until && !(await ask()) && Date.now() < deadline)
        await new Promise((after) => setTimeout(after, 20));
    const made = await ask();
    return JSON.stringify(until ? Boolean(made) : made ?? null);
}}"""


class Firefox:
    """A browser."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = threading.Condition()

    def __enter__(self) -> Firefox:
        with ExitStack() as stack:
            profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            self._log = stack.enter_context(Path(profile, "log").open("w+b"))
            port = free_port()
            command = [FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port"]
            self._process = subprocess.Popen(
                [*command, str(port), "about:blank"], stdout=self._log, stderr=subprocess.STDOUT
            )
            stack.callback(self._process.wait, PATIENCE)
            stack.callback(self._process.terminate)
            until(self._is_listening)
            url = f"ws://127.0.0.1:{port}/session"
            self._socket = stack.enter_context(connect(url, max_size=None, open_timeout=PATIENCE))
            threading.Thread(target=self._read, daemon=True).start()
            self.command("session.new", capabilities={})
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _is_listening(self) -> bool:
        assert self._process.poll() is None, "Firefox has ended"
        return b"WebDriver BiDi listening" in Path(self._log.name).read_bytes()

    def _read(self) -> None:
        try:
            for message in map(json.loads, self._socket):
                if message["type"] != "event":
                    with self._answered:
                        self._answers[message["id"]] = message
                        self._answered.notify_all()
        except ConnectionClosed:
            pass

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        with self._answered:
            arrived = self._answered.wait_for(lambda: number in self._answers, PATIENCE)
            assert arrived, f"no answer to {method}"
            answer = self._answers.pop(number)
        assert answer["type"] == "success", answer
        return answer["result"]

    def new_page(self) -> FirefoxPage:
        """A page with cookies and connections of its own."""
        user = self.command("browser.createUserContext")["userContext"]
        made = self.command("browsingContext.create", type="tab", userContext=user)
        return FirefoxPage(self, user, made["context"])


class FirefoxPage:
    """A page."""

    def __init__(self, browser: Firefox, user: str, context: str) -> None:
        self._browser = browser
        self._user = user
        self._context = context

    def goto(self, url: str) -> None:
        """Load a page, and wait until it is complete."""
        self._browser.command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, expression: str, arg: Any = None) -> Any:
        """What an expression, or a function of ``arg``, returns there."""
        return self._call(expression, arg, 0)

    def wait_for_function(
        self, expression: str, *, arg: Any = None, timeout: float = PATIENCE * 1000
    ) -> None:
        """Wait until that is true, for ``timeout`` milliseconds."""
        assert self._call(expression, arg, timeout), f"it did not come true in {timeout} ms: {expression}"

    def _call(self, expression: str, arg: Any, until: float) -> Any:
        answer = self._browser.command(
            "script.callFunction",
            functionDeclaration=CALL.format(expression=expression),
            arguments=[
                {"type": "string", "value": json.dumps(arg)},
                {"type": "number", "value": until},
            ],
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def close(self) -> None:
        """Close it, and forget its cookies."""
        self._browser.command("browser.removeUserContext", userContext=self._user)
