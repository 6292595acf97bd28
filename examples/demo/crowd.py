"""`python -m examples.demo.crowd HOST PORT PATH CLIENTS`: clients that read streams, without a browser each.

Prints a line of JSON twice a second: how many streams are open, how many ticks have arrived, and how old the
newest tick was when the last client got it, in milliseconds. Ends when its standard input is closed.
"""

import json
import re
import resource
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from datetime import datetime

AT_ONCE = 64  # connections that are opened together: a server's queue of new ones is short
REPORT = 0.5  # seconds
TICK = re.compile(rb'^data: \{"number":(\d+),"at":"([^"]+)"', re.MULTILINE)


@dataclass(slots=True)
class Client:
    """One connection, and the line it has received half of."""

    connection: socket.socket
    rest: bytes = b""
    is_open: bool = False


class Crowd:
    """All of them, read in turn."""

    def __init__(self, address: tuple[str, int], path: str, clients: int) -> None:
        self.address = address
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: {address[0]}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        self.wanted = clients
        self.selector = selectors.DefaultSelector()
        self.began = self.open = self.closed = self.ticks = 0
        self.newest = -1
        self.age = 0.0

    def run(self) -> None:
        """Open, read and report until standard input ends."""
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        due = time.monotonic()
        while True:
            while self.began < self.wanted and self.began - self.open - self.closed < AT_ONCE:
                self.connect()
            for key, _ in self.selector.select(max(0.0, due - time.monotonic())):
                if key.data is None:
                    return
                self.read(key.data)
            if time.monotonic() >= due:
                due += REPORT
                report = {"open": self.open - self.closed, "ticks": self.ticks, "age": round(self.age, 2)}
                print(json.dumps(report), flush=True)

    def connect(self) -> None:
        """Open one more stream."""
        self.began += 1
        connection = socket.create_connection(self.address, 10)
        connection.sendall(self.request)
        connection.setblocking(False)
        self.selector.register(connection, selectors.EVENT_READ, Client(connection))

    def read(self, client: Client) -> None:
        """Take what has arrived for one client."""
        try:
            received = client.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.selector.unregister(client.connection)
            client.connection.close()
            self.closed += 1
            self.open += not client.is_open
            return
        if not client.is_open:
            if not received.startswith(b"HTTP/1.1 200"):
                answer = received.split(b"\r\n", 1)[0].decode("latin-1")
                print(json.dumps({"problem": f"A stream was refused: {answer}"}), flush=True)
                sys.exit(1)
            client.is_open = True
            self.open += 1
        whole, end, client.rest = (client.rest + received).rpartition(b"\n")
        for number, at in TICK.findall(whole + end):
            self.ticks += 1
            age = (time.time() - datetime.fromisoformat(at.decode()).timestamp()) * 1000
            # That of the newest tick, at the client that gets it last.
            self.age = max(age, self.age) if int(number) == self.newest else age
            self.newest = max(self.newest, int(number))


def main() -> None:
    """Read the arguments, and make room for that many connections."""
    host, port, path, clients = sys.argv[1:]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = int(clients) + 64
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    Crowd((host, int(port)), path, int(clients)).run()


if __name__ == "__main__":
    main()
