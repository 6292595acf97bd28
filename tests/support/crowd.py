"""Thousands of clients at once in one thread, with raw sockets and epoll.

::

    with many_descriptors(1000), Crowd(port) as crowd:
        visitors = crowd.come(1000, "/events")
        crowd.read(visitors, lambda visitor: visitor.ended)

``python crowd.py PORT COUNT PATH`` is such a crowd in a process of its own, see `Company`.
"""

from __future__ import annotations

import errno
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

HOST = "127.0.0.1"
OPENED = b"event: stream-open\n"
# How many connections are opened at once: fewer than a listener queues.
PARALLEL = 250


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process open ``count`` sockets."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < count + 200:
        import pytest

        pytest.skip(f"needs {count + 200} descriptors, and may have {limits[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], count + 200), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Visitor:
    """One client of a crowd."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.received = b""
        self.ended = False  # the server closed the connection
        self.reset = False

    @property
    def complete(self) -> bool:
        """Whether the body came to its end."""
        return self.received.endswith(b"\r\n0\r\n\r\n")

    def read(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionError:
            data, self.reset = b"", True
        self.received += data
        self.ended = not data


class Crowd:
    """Clients of one server, from several addresses, so that ports do not run out."""

    def __init__(self, port: int, *, sources: int = 8) -> None:
        self.port = port
        self.sources = sources
        self.visitors: set[Visitor] = set()
        self._epoll = select.epoll()
        self._came = 0

    def come(
        self, count: int, path: str, *, receive_buffer: int | None = None, until: bytes = OPENED
    ) -> list[Visitor]:
        """Open ``count`` streams, and return when each client has received ``until``.

        ``{}`` in the path is the number of the visitor.
        """
        came: list[Visitor] = []
        pending: dict[int, Visitor] = {}
        deadline = time.monotonic() + 30 + count / 100
        while len(came) < count or pending:
            assert time.monotonic() < deadline, f"{len(pending)} do not begin"
            while len(came) < count and len(pending) < PARALLEL:
                came.append(self._connect(receive_buffer))
                pending[came[-1].sock.fileno()] = came[-1]
            for number, events in self._epoll.poll(1.0):
                visitor = pending[number]
                if events & select.EPOLLOUT:
                    where = path.format(visitor.number)
                    visitor.sock.sendall(f"GET {where} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
                    self._epoll.modify(number, select.EPOLLIN)
                    continue
                visitor.read()
                assert not visitor.ended, visitor.received
                if until in visitor.received:
                    self._epoll.unregister(number)
                    del pending[number]
        return came

    def _connect(self, receive_buffer: int | None) -> Visitor:
        visitor = Visitor(socket.socket(), self._came)
        self.visitors.add(visitor)
        sock = visitor.sock
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((f"127.0.0.{2 + self._came % self.sources}", 0))
        self._came += 1
        assert sock.connect_ex((HOST, self.port)) in (0, errno.EINPROGRESS)
        self._epoll.register(sock, select.EPOLLOUT)
        return visitor

    def read(
        self, visitors: Iterable[Visitor], done: Callable[[Visitor], bool], seconds: float = 30.0
    ) -> None:
        """Read for these visitors until each is done."""
        left = {visitor.sock.fileno(): visitor for visitor in visitors if not done(visitor)}
        for number in left:
            self._epoll.register(number, select.EPOLLIN)
        deadline = time.monotonic() + seconds
        while left:
            assert time.monotonic() < deadline, f"{len(left)} still wait"
            for number, _ in self._epoll.poll(1.0):
                visitor = left[number]
                visitor.read()
                if visitor.ended or done(visitor):
                    self._epoll.unregister(number)
                    del left[number]

    def leave(self, visitor: Visitor) -> None:
        """Close the visitor's socket and forget the visitor."""
        visitor.sock.close()
        self.visitors.discard(visitor)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in self.visitors:
            visitor.sock.close()
        self._epoll.close()


class Company:
    """A crowd in a process of its own, which reads all that arrives."""

    def __init__(self, port: int, count: int, path: str = "/events") -> None:
        command = [sys.executable, __file__, str(port), str(count), path]
        self._process = Popen(command, stdout=PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n"

    def kill(self) -> None:
        """Send SIGKILL: the kernel closes all its sockets."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Company:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def be_company(port: int, count: int, path: str) -> None:
    with many_descriptors(count), Crowd(port) as crowd:
        visitors = crowd.come(count, path)
        print("open", flush=True)

        def ended(visitor: Visitor) -> bool:
            visitor.received = b""
            return visitor.ended

        crowd.read(visitors, ended, 600)


if __name__ == "__main__":
    be_company(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
