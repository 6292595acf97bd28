"""A real redis-server of the test's own, and a proxy to put in front of it.

::

    with RedisServer() as redis, Proxy(redis.port) as proxy:
        hub = Hub(f"redis://127.0.0.1:{proxy.port}")
        hub.publish("prices", 1).result()
        assert redis.admin.xlen(stream_key()) == 1
        proxy.cut()

The test looks at the data through ``admin``, a connection over a Unix socket: whatever is wrong with the TCP
side, it goes on.
"""

from __future__ import annotations

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

from servers import HOST, free_port
from waiting import until

import redis

# An entry's id: milliseconds and a number within them.
EntryId = tuple[int, int]


def stream_key(name: str = "default", prefix: str = "sse-hub") -> str:
    """Where a hub keeps its events."""
    return f"{{{prefix}:{name}}}:events"


def entry_id(text: str) -> EntryId:
    """An id as it is on the wire, so that it can be compared."""
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)


class RedisServer:
    """redis-server on a free port, with its data in a directory of its own; everything is on disk at once.

    Args:
        options: of the command line: ``"--requirepass", "secret"``.
        username, password: with which ``admin`` signs in.
        db: which of the databases ``admin`` looks at.
        tls: a directory from ``certificates``; the port then speaks TLS only.
    """

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
        """Start it with what is on disk, and wait until it answers."""
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
        # Nobody reads on: what it logs later must not fill the pipe.
        threading.Thread(target=_discard, args=(self.process.stdout,), daemon=True).start()
        until(self._answers)

    def _answers(self) -> bool:
        with suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return bool(self.admin.ping())
        return False

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        self.admin.close()
        self.process.kill()
        self.process.wait()

    def restart(self, *, empty: bool = False) -> None:
        """Start it again after ``kill``, with its data or without."""
        if empty:
            shutil.rmtree(self.directory / "appendonlydir")
        self.start()

    def keep_disk(self) -> Path:
        """Copy what is on disk now, for ``restart_with``."""
        kept = Path(tempfile.mkdtemp(dir=self.directory))
        return Path(shutil.copytree(self.directory / "appendonlydir", kept / "appendonlydir"))

    def restart_with(self, disk: Path) -> None:
        """Start it again after ``kill``, as if nothing had been written to disk since."""
        shutil.rmtree(self.directory / "appendonlydir")
        disk.rename(self.directory / "appendonlydir")
        self.start()

    def clock_ahead(self, name: str = "default", *, by: float = 3600.0) -> None:
        """Let ids of a stream that is empty yet begin in the future, in seconds.

        For Redis that is a clock which was ahead, and was set back since: ids go on from the greatest, until
        the stream is gone. Then they begin anew, smaller.
        """
        key = stream_key(name)
        self.admin.xgroup_create(key, "nobody", mkstream=True)
        self.admin.xgroup_destroy(key, "nobody")
        self.admin.execute_command("XSETID", key, f"{int((time.time() + by) * 1000)}-0")

    def ids(self, name: str = "default", prefix: str = "sse-hub") -> list[str]:
        """The ids of everything in a hub's stream."""
        return [id for id, _ in self.admin.xrange(stream_key(name, prefix))]

    def clients(self) -> int:
        """How many TCP connections it has."""
        return sum(not client["addr"].startswith("/") for client in self.admin.client_list())

    def close(self) -> None:
        """End it, and remove its data."""
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
    """An authority (``ca.pem``) and a server's certificate for 127.0.0.1 and localhost by it."""

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
    """A TCP proxy on a port of its own that can behave as networks do."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._requests = threading.Event()  # set: what clients send is forwarded
        self._replies = threading.Event()
        self.delay = 0.0  # seconds that every piece is late
        self.refused = b""  # what ends a connection whose client sends it
        self.accepted = 0  # connections so far
        self.requested = 0  # bytes that clients have sent so far
        self.port = 0
        self.restore()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def restore(self) -> None:
        """Be a good network again."""
        self.delay = 0.0
        self.refused = b""
        self._requests.set()
        self._replies.set()
        if not self.port or self._listener.fileno() < 0:
            self._listener = socket.create_server((HOST, self.port))
            self.port = self._listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        with suppress(OSError):  # the only thing that wakes accept()
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Close all connections; new ones are welcome."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def black_hole(self) -> None:
        """Connections stay and can be made, and nothing comes through until ``restore``."""
        self._requests.clear()
        self._replies.clear()

    def hold_replies(self) -> None:
        """What is asked arrives, the answers do not until ``restore``."""
        self._replies.clear()

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
            for source, to, gate in ((client, server, self._requests), (server, client, self._replies)):
                args = (source, to, gate, ends)
                threading.Thread(target=self._forward, args=args, daemon=True).start()
            threading.Thread(target=self._forget, args=(pair, ends), daemon=True).start()

    def _forward(
        self, source: socket.socket, to: socket.socket, gate: threading.Event, ends: threading.Semaphore
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if gate is self._requests:
                    self.requested += len(data)
                    if self.refused and self.refused in data:
                        break
                gate.wait()
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

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
