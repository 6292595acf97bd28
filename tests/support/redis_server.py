"""A real redis-server for one test, and a proxy to put in front of it.

::

    with RedisServer() as redis, Proxy(redis.port) as proxy:
        hub = Hub(f"redis://127.0.0.1:{proxy.port}")
        hub.publish("prices", 1).result()
        assert redis.admin.xlen(stream_key()) == 1
        proxy.cut()

Tests read the data through ``admin``, a connection over a Unix socket, which works whatever happens to TCP.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from servers import HOST, free_port
from sse_hub import RedisBroker
from waiting import until

import redis

# An entry's id: milliseconds and a number within them.
EntryId = tuple[int, int]


def stream_key(name: str = "default", prefix: str = "sse-hub") -> str:
    """The key of a hub's events."""
    return f"{{{prefix}:{name}}}:events"


def entry_id(text: str) -> EntryId:
    """An id of the wire as a value that can be compared."""
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)


class RedisServer:
    """redis-server on a free port, with a data directory of its own; every write is on disk at once.

    What ``FileServer`` has, too, is what the tests of every broker ask for.

    Args:
        options: arguments of the command line, such as ``"--requirepass", "secret"``.
        username, password: the credentials of ``admin``.
        db: the database that ``admin`` selects.
        tls: a directory from ``certificates``; the port then speaks only TLS.
    """

    kind = "redis"

    def __init__(
        self,
        *options: str,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        tls: Path | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sse-hub-redis-"))
        self._options = [*options]
        self._tls = tls
        self.port = free_port()
        self.admin: Any = redis.Redis(
            unix_socket_path=str(self.directory / "socket"),
            username=username,
            password=password,
            db=db,
            decode_responses=True,
            socket_timeout=10,
            retry=None,
        )
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the server with the data on disk, and wait until it answers."""
        listen = ["--port", str(self.port)]
        if self._tls:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            listen += ["--tls-cert-file", str(self._tls / "server.pem")]
            listen += ["--tls-key-file", str(self._tls / "server.key")]
            listen += ["--tls-ca-cert-file", str(self._tls / "ca.pem")]
        store = ["--dir", str(self.directory), "--unixsocket", str(self.directory / "socket")]
        store += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.process = subprocess.Popen(
            ["redis-server", "--bind", HOST, *listen, *store, *self._options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            log.append(line)
            if "eady to accept connections" in line:
                break
        else:
            raise AssertionError("redis-server does not start:\n" + "".join(log))
        # Later log lines must not fill the pipe.
        threading.Thread(target=_discard, args=(self.process.stdout,), daemon=True).start()
        until(self._answers)

    def _answers(self) -> bool:
        with suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return bool(self.admin.ping())
        return False

    def suspend(self, process: int, name: str = "default") -> None:
        """SIGSTOP for a process of a hub."""
        del name
        os.kill(process, signal.SIGSTOP)

    def pause(self) -> None:
        """Send SIGSTOP: connections stay, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)  # a moment later

    def resume(self) -> None:
        """Send SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.admin.close()
        self.process.kill()
        self.process.wait()

    def restart(self, *, empty: bool = False) -> None:
        """Start the server again after ``kill``, with its data or without."""
        if empty:
            shutil.rmtree(self.directory / "appendonlydir")
        self.start()

    def keep_disk(self) -> Path:
        """Copy the data on disk, for ``restart_with``."""
        kept = Path(tempfile.mkdtemp(dir=self.directory))
        return Path(shutil.copytree(self.directory / "appendonlydir", kept / "appendonlydir"))

    def restart_with(self, disk: Path) -> None:
        """Start the server again after ``kill``, as if nothing had been written since ``keep_disk``."""
        shutil.rmtree(self.directory / "appendonlydir")
        disk.rename(self.directory / "appendonlydir")
        self.start()

    def clock_ahead(self, name: str = "default", *, by: float = 3600.0) -> None:
        """Start the ids of a hub's empty stream ``by`` seconds in the future.

        To Redis this is a clock that was ahead and has been set back: ids continue from the greatest one
        until the stream is deleted, and begin smaller afterwards.
        """
        key = stream_key(name)
        self.admin.xgroup_create(key, "nobody", mkstream=True)
        self.admin.xgroup_destroy(key, "nobody")
        self.admin.execute_command("XSETID", key, f"{int((time.time() + by) * 1000)}-0")

    def ids(self, name: str = "default", prefix: str = "sse-hub") -> list[str]:
        """The ids of all entries in a hub's stream."""
        return [id for id, _ in self.admin.xrange(stream_key(name, prefix))]

    def broker(self, **options: Any) -> RedisBroker:
        """A broker of this server."""
        return RedisBroker(self.url, **options)

    def content(self, name: str = "default") -> str:
        """What the entries carry, for a look whether something is among it."""
        return str(self.admin.xrange(stream_key(name)))

    def data(self, name: str = "default") -> list[str]:
        """The lines of the entries' events."""
        return [fields["d"] for _, fields in self.admin.xrange(stream_key(name))]

    def last_id(self, name: str = "default") -> str:
        """The last id that the stream gave."""
        last: str = self.admin.xinfo_stream(stream_key(name))["last-generated-id"]
        return last

    def trim(self, name: str = "default", *, keep: int) -> None:
        """Delete all entries but the newest."""
        self.admin.xtrim(stream_key(name), maxlen=keep, approximate=False)

    def remove(self, id: str, name: str = "default") -> None:
        """Delete one entry."""
        self.admin.xdel(stream_key(name), id)

    def delete(self, name: str = "default") -> None:
        """Delete a hub's stream."""
        self.admin.delete(stream_key(name))

    def empty(self) -> None:
        """Delete everything."""
        self.admin.flushall()

    def grow_old(self, name: str, seconds: float) -> dict[str, str]:
        """Make everything in a hub's stream so much older; what became of each id."""
        key = stream_key(name)
        entries = self.admin.xrange(key)
        aged: dict[str, str] = {}

        def older(id: str) -> str:
            ms, number = entry_id(id)
            return aged.setdefault(id, f"{ms - int(seconds * 1000)}-{number}")

        # At once: a hub that finds no stream would begin one, with ids of today.
        with self.admin.pipeline(transaction=True) as pipeline:
            pipeline.delete(key)
            for id, fields in entries:
                pipeline.xadd(key, {**fields, "p": older(fields["p"])}, id=older(id))
            pipeline.execute()
        return aged

    def clients(self) -> int:
        """The number of TCP connections."""
        return sum(not client["addr"].startswith("/") for client in self.admin.client_list())

    def close(self) -> None:
        """Kill the server, and remove its data."""
        self.admin.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _discard(pipe: Any) -> None:
    with pipe:
        for _ in pipe:
            pass


def certificates(directory: Path) -> Path:
    """Create an authority (``ca.pem``) and its certificate for a server at 127.0.0.1 and localhost."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", "-days", "2")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (directory / "names").write_text(f"subjectAltName=IP:{HOST},DNS:localhost\n")
    by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", *by)
    return directory


class Proxy:
    """A TCP proxy on a port of its own, which can fail as networks do."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._requests = threading.Event()  # while set, requests are forwarded
        self._replies = threading.Event()
        self._news = threading.Event()  # set: replies on connections that follow a stream are forwarded
        self.delay = 0.0  # seconds by which every piece is delayed
        self._held: list[threading.Event] = []
        self.silent = 0  # of so many connections that come next, the replies are held back
        self.refused = b""  # a connection ends when its client sends this
        self.accepted = 0  # connections so far
        self.requested = 0  # bytes that clients have sent so far
        self.port = 0
        self.restore()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def restore(self) -> None:
        """Forward everything again."""
        self.delay = 0.0
        self.refused = b""
        self._requests.set()
        self._replies.set()
        self._news.set()
        if not self.port or self._listener.fileno() < 0:
            self._listener = socket.create_server((HOST, self.port))
            self.port = self._listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        with suppress(OSError):  # nothing else wakes accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Close all connections, and accept new ones."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def black_hole(self) -> None:
        """Keep and accept connections, and forward nothing until ``restore``."""
        self._requests.clear()
        self._replies.clear()

    def hold_replies(self) -> None:
        """Forward requests, and hold replies back until ``restore``."""
        self._replies.clear()

    def hold_news(self) -> None:
        """Hide new entries from followers until ``restore``; everything else is answered."""
        self._news.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                server = socket.create_connection((HOST, self.target))
            except OSError:
                client.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            ends = threading.Semaphore(0)
            follows = threading.Event()  # it has asked for what is new in a stream
            replies = self._replies
            if self.silent:
                self.silent -= 1
                replies = threading.Event()
                self._held.append(replies)
            for source, to, gate in ((client, server, self._requests), (server, client, replies)):
                args = (source, to, gate, ends, follows)
                threading.Thread(target=self._forward, args=args, daemon=True).start()
            threading.Thread(target=self._forget, args=(pair, ends), daemon=True).start()

    def _forward(
        self,
        source: socket.socket,
        to: socket.socket,
        gate: threading.Event,
        ends: threading.Semaphore,
        follows: threading.Event,
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if gate is self._requests:
                    self.requested += len(data)
                    if b"XREAD" in data:
                        follows.set()
                    if self.refused and self.refused in data:
                        break
                gate.wait()
                if gate is self._replies and follows.is_set():
                    self._news.wait()
                if self.delay:
                    time.sleep(self.delay)
                to.sendall(data)
        gate.wait()  # an end does not come through either
        with suppress(OSError):
            to.shutdown(socket.SHUT_RDWR)
        ends.release()

    def _forget(self, pair: tuple[socket.socket, socket.socket], ends: threading.Semaphore) -> None:
        ends.acquire()
        ends.acquire()
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            end.close()

    def close(self) -> None:
        self.cut()
        self._requests.set()
        self._replies.set()
        self._news.set()
        for replies in self._held:
            replies.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
