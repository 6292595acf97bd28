"""What an application beside nginx with nchan does: publishes over HTTP, and asks how many subscribe.

    python -m bench.peers.nchan_control SOCKET PORT

nginx passes it all but the streams; it is not part of the process that is measured.
"""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bench.peers.common import text


class Channel:
    """A keep-alive connection to nginx's publisher endpoint. One call at a time."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._lock = threading.Lock()
        self._seq = 0

    def _request(self, method: str, body: str | None = None) -> tuple[int, bytes]:
        self._connection.request(method, "/channel", body, {"Accept": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()

    def count(self) -> int:
        """Subscribers now; a channel that does not exist has none."""
        with self._lock:
            status, body = self._request("GET")
        return int(json.loads(body)["subscribers"]) if status == 200 else 0

    def run(self, n: int, rate: float, size: int, batch: int) -> dict[str, Any]:
        """Publish `n` events of `size` bytes, `batch` at a time, `rate` a second (0: without a pause)."""
        first, begin = self._seq, time.monotonic()
        for start in range(0, n, batch):
            for _ in range(min(batch, n - start)):
                with self._lock:
                    status, body = self._request("POST", text(self._seq, size))
                if status not in (200, 201, 202):
                    raise RuntimeError(f"nginx answered {status}: {body!r}")
                self._seq += 1
            due = begin + (start + batch) / rate if rate else 0.0
            time.sleep(max(0.0, due - time.monotonic()))
        return {"first": first, "n": n}


class Server(ThreadingMixIn, UnixStreamServer):
    """A thread for each of nginx's connections."""

    daemon_threads = True
    channel: Channel


class Handler(BaseHTTPRequestHandler):
    """/publish and /count, as the other peers have them."""

    protocol_version = "HTTP/1.1"
    server: Server

    def address_string(self) -> str:
        return "nginx"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer({"count": self.server.channel.count()})

    def do_POST(self) -> None:
        given = dict(parse_qsl(urlsplit(self.path).query))
        numbers = (int(given["n"]), float(given["rate"]), int(given["bytes"]), int(given.get("batch", "1")))
        self.answer(self.server.channel.run(*numbers))


def main() -> None:
    """Serve until killed."""
    path, port = sys.argv[1], int(sys.argv[2])
    with Server(path, Handler) as server:
        server.channel = Channel(port)
        server.serve_forever()


if __name__ == "__main__":
    main()
