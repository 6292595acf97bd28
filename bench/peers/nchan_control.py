"""What an application beside nginx with nchan does: publishes over HTTP, and asks how many subscribe.

    python -m bench.peers.nchan_control SOCKET PORT

nginx passes it all but the streams; it is not part of the process that is measured.
"""

import http.client
import json
import socket
import sys
import threading
import time
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from io import BufferedReader
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bench.peers.common import text

# How many requests go out before an answer is read: more could fill the buffers of both directions at once.
PIPELINE = 200


class Channel:
    """A keep-alive connection to nginx's publisher endpoint, which answers in order. One user at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._seq = 0

    @cached_property
    def _socket(self) -> socket.socket:
        # On first use: nginx is started after this process.
        return socket.create_connection(("127.0.0.1", self._port))

    @cached_property
    def _answers(self) -> BufferedReader:
        return self._socket.makefile("rb")

    def _requests(self, method: str, bodies: list[str]) -> list[tuple[int, bytes]]:
        """Send a request for each body at once; status and body of each answer."""
        head = f"{method} /channel HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAccept: application/json\r\n"
        requests = (f"{head}Content-Length: {len(body)}\r\n\r\n{body}" for body in bodies)
        self._socket.sendall("".join(requests).encode())
        return [self._answer() for _ in bodies]

    def _answer(self) -> tuple[int, bytes]:
        line = self._answers.readline()
        if not line:
            raise ConnectionError("nginx closed the publisher's connection")
        headers = http.client.parse_headers(self._answers)
        return int(line.split()[1]), self._answers.read(int(headers["Content-Length"]))

    def count(self) -> int:
        """Subscribers now; a channel that does not exist has none."""
        with self._lock:
            [(status, body)] = self._requests("GET", [""])
        return int(json.loads(body)["subscribers"]) if status == 200 else 0

    def run(self, n: int, rate: float, size: int, batch: int) -> dict[str, Any]:
        """Publish `n` events of `size` bytes, `batch` at a time, `rate` a second (0: without a pause).

        A batch is published without awaiting an answer in between.
        """
        first, begin = self._seq, time.monotonic()
        for start in range(0, n, batch):
            with self._lock:
                for part in range(start, min(start + batch, n), PIPELINE):
                    count = min(PIPELINE, start + batch - part, n - part)
                    bodies = [text(self._seq + i, size) for i in range(count)]
                    self._seq += count
                    for status, body in self._requests("POST", bodies):
                        if status not in (200, 201, 202):
                            raise RuntimeError(f"nginx answered {status}: {body!r}")
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
