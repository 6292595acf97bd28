"""The response that follows a run."""

from __future__ import annotations

from typing import Unpack

from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

from sse_hub._arguments import check_text
from sse_hub._responses.guarded_response import serves_as_response_class
from sse_hub._responses.hub_response import HubResponse
from sse_hub._responses.options import FollowOptions, StreamOptions, make_request
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._runs.existence import run_exists
from sse_hub._runs.states import RunFormat
from sse_hub.exceptions import HubError

__all__ = ["RunResponse"]

# The run and the format decide these.
_FIXED = sorted(StreamOptions.__optional_keys__ - FollowOptions.__optional_keys__)

_HEADERS = {"ai-sdk": {"x-vercel-ai-ui-message-stream": "v1"}}


class RunResponse(HubResponse):
    """What ``Hub.follow`` returns: a run from its beginning, or from the client's id.

    If there is no such run, or the client has all of it, the answer is 204; with ``"ag-ui"`` an empty stream.
    """

    _made_by = "hub.follow(name)"
    # Before the head is out, the run may end and its name become free.
    _subscribes_first = True

    @serves_as_response_class
    def __init__(
        self, hub: StreamingHub, name: str, format: RunFormat | None, **options: Unpack[FollowOptions]
    ) -> None:
        check_text("name", name)
        for option in _FIXED:
            if option in options:
                raise TypeError(f"Hub.follow() takes no {option!r}: a watcher gets the whole run")
        decided: StreamOptions = {"control": format is None, "replay": "all"}
        if options.get("compress") is None:
            decided["compress"] = False  # The hub's is for topics: a run seldom has more than one watcher.
        merged: StreamOptions = {**options, **decided}
        super().__init__(hub, name, **merged)
        self._name = name
        self._format = format
        self._request = self._asked = make_request(name, merged, format=format, whole=True)
        headers = MutableHeaders(raw=self.raw_headers)
        for header, value in _HEADERS.get(format or "", {}).items():
            headers[header] = value

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        try:
            found = scope["type"] != "http" or await run_exists(self.hub, self._name)
        except HubError:  # the broker does not answer
            await self._refuse(send, 503)
            return False
        if not found:
            await self._say_over(send)
            return False
        return await super()._answer(scope, receive, send)

    async def _say_over(self, send: Send) -> None:
        if self._format != "ag-ui":
            await super()._say_over(send)
            return
        # AG-UI's HttpAgent fails at a response without a body: "Failed to getReader() from response".
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
