"""What happens to streams behind the middleware of real packages: a program for the environment with these.

``python packages_check.py GROUP`` serves an app behind each package of the group, is its own client, and
prints a line of JSON for each: the way of the stream, what was counted, and how long its beginning took.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sse_hub import Hub

ENCODINGS = "gzip, br, zstd"
BODY = re.compile(
    rb"(: sse-hub [0-9a-f]{16}\n)?: sse-hub heartbeat=\S+\nid: \S+\n"
    rb"event: stream-open\ndata: \nretry: \d+\n\n"
    rb'id: \S+\ndata: \{"n":1\}\n\n'
)


def added(module: str, name: str, **options: Any) -> Callable[[FastAPI], None]:
    """The middleware of this name with these options; options that are callable are called here."""

    def install(app: FastAPI) -> None:
        middleware = getattr(__import__(module, fromlist=[name]), name)
        app.add_middleware(
            middleware, **{key: value() if callable(value) else value for key, value in options.items()}
        )

    return install


def functions(count: int, *, reads: bool = False) -> Callable[[FastAPI], None]:
    def install(app: FastAPI) -> None:
        for _ in range(count):

            @app.middleware("http")
            async def through(request: Request, call_next: Any) -> Any:
                if reads:
                    await request.body()
                return await call_next(request)

    return install


def tracer_provider() -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return provider


def instrumented(app: FastAPI) -> None:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(app, tracer_provider=tracer_provider())


def measured(app: FastAPI) -> None:
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator().instrument(app).expose(app)


def limited(asgi: bool) -> Callable[[FastAPI], None]:
    def install(app: FastAPI) -> None:
        from slowapi import Limiter
        from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
        from slowapi.util import get_remote_address

        app.state.limiter = Limiter(key_func=get_remote_address, default_limits=["1000/minute"])
        app.add_middleware(SlowAPIASGIMiddleware if asgi else SlowAPIMiddleware)

    return install


def elastic() -> Any:
    from elasticapm.contrib.starlette import make_apm_client

    return make_apm_client({"SERVICE_NAME": "x", "DISABLE_SEND": True, "CLOUD_PROVIDER": "none"})


def sentry() -> None:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Nowhere(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    sentry_sdk.init(dsn="http://x@127.0.0.1:1/1", traces_sample_rate=1.0, transport=Nowhere)


def newrelic() -> None:
    from newrelic.agent import register_application

    # In developer mode it calls nobody; without this it ignores requests until it is registered.
    register_application(timeout=20)


def nothing(_: FastAPI) -> None:
    pass


GROUPS: dict[str, dict[str, Callable[[FastAPI], None]]] = {
    "shared": {
        "nothing": nothing,
        "GZipMiddleware": added("starlette.middleware.gzip", "GZipMiddleware", minimum_size=1),
        "GZipMiddleware, all types": added(
            "starlette.middleware.gzip", "GZipMiddleware", minimum_size=1, exclude_content_types=()
        ),
        "brotli-asgi": added("brotli_asgi", "BrotliMiddleware", minimum_size=1),
        "starlette-compress": added("starlette_compress", "CompressMiddleware", minimum_size=1),
        "CORSMiddleware": added("starlette.middleware.cors", "CORSMiddleware", allow_origins=["*"]),
        "SessionMiddleware": added("starlette.middleware.sessions", "SessionMiddleware", secret_key="x"),
        "TrustedHostMiddleware": added(
            "starlette.middleware.trustedhost", "TrustedHostMiddleware", allowed_hosts=["*"]
        ),
        '`@app.middleware("http")`': functions(1),
        '`@app.middleware("http")` twice': functions(2),
        '`@app.middleware("http")` that reads the body': functions(1, reads=True),
        "OpenTelemetry, ASGI": added(
            "opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware", tracer_provider=tracer_provider
        ),
        "OpenTelemetry, FastAPIInstrumentor": instrumented,
        "Elastic APM": added("elasticapm.contrib.starlette", "ElasticAPM", client=elastic),
        "prometheus-fastapi-instrumentator": measured,
        "starlette-exporter": added("starlette_exporter", "PrometheusMiddleware"),
        "slowapi": limited(asgi=False),
        "slowapi, ASGI": limited(asgi=True),
        "asgi-correlation-id": added("asgi_correlation_id", "CorrelationIdMiddleware"),
    },
    "sentry": {
        "Sentry, automatic": nothing,
        "Sentry, ASGI": added("sentry_sdk.integrations.asgi", "SentryAsgiMiddleware"),
    },
    "newrelic": {"New Relic": nothing},
    "ddtrace": {"ddtrace": nothing},
}


def traced_by_opentelemetry() -> bool:
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context().is_valid


def traced_by_sentry() -> bool:
    import sentry_sdk

    return sentry_sdk.get_current_span() is not None


def traced_by_new_relic() -> bool:
    from newrelic.agent import current_transaction

    return current_transaction() is not None


def traced_by_ddtrace() -> bool:
    from ddtrace.trace import tracer

    return tracer.current_span() is not None


def traced_by_elastic() -> bool:
    from elasticapm.traces import execution_context

    return execution_context.get_transaction() is not None


# Whether a package that nobody adds to the app, or that may decide to do nothing, sees the request.
ACTIVE: dict[str, Callable[[], bool]] = {
    "OpenTelemetry, ASGI": traced_by_opentelemetry,
    "OpenTelemetry, FastAPIInstrumentor": traced_by_opentelemetry,
    "Sentry, automatic": traced_by_sentry,
    "Sentry, ASGI": traced_by_sentry,
    "New Relic": traced_by_new_relic,
    "ddtrace": traced_by_ddtrace,
    "Elastic APM": traced_by_elastic,
}


class Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


def build(name: str, install: Callable[[FastAPI], None]) -> FastAPI:
    app = FastAPI()
    app.state.hub = hub = Hub(heartbeat=None)
    app.state.closed = closed = []

    async def session() -> AsyncIterator[None]:
        yield
        closed.append(1)

    @app.api_route("/events", methods=["GET", "POST"], dependencies=[Depends(session)])
    async def events(compress: bool = False) -> Response:
        assert ACTIVE.get(name, bool)() is (name in ACTIVE), f"{name} does not see the request"
        return hub.response("t", compress=compress)

    @app.get("/plain")
    async def plain() -> Response:
        return JSONResponse({"plain": "x" * 3000})

    install(app)
    return app


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Body:
    """The decoded content of a chunked response, as far as it came."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wire = b""
        self.content = b""
        self.ended = False
        while b"\r\n\r\n" not in self.wire:
            self._read()
        head, _, self.wire = self.wire.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        encodings = re.findall(rb"content-encoding: ([\w, ]+)", head.lower())
        self.coding = b", ".join(encodings).decode()
        self.decode = decoder(self.coding)
        self._chunks()

    def _read(self) -> None:
        data = self.sock.recv(65536)
        assert data, f"the connection was closed after {self.content!r} {self.wire!r}"
        self.wire += data

    def _chunks(self) -> None:
        while not self.ended:
            size, line, rest = self.wire.partition(b"\r\n")
            if not line or len(rest) < (length := int(size, 16)) + 2:
                return
            assert rest[length : length + 2] == b"\r\n"
            self.content += self.decode(rest[:length]) if length else b""
            self.wire = rest[length + 2 :]
            self.ended = length == 0

    def read_until(self, text: bytes) -> None:
        while text not in self.content:
            self._read()
            self._chunks()

    def read_to_end(self) -> None:
        while not self.ended:
            self._read()
            self._chunks()


def decoder(encoding: str) -> Callable[[bytes], bytes]:
    if encoding == "gzip":
        return zlib.decompressobj(31).decompress
    if encoding == "br":
        import brotli

        process: Callable[[bytes], bytes] = brotli.Decompressor().process
        return process
    if encoding == "zstd":
        import zstandard

        decompress: Callable[[bytes], bytes] = zstandard.ZstdDecompressor().decompressobj().decompress
        return decompress
    assert not encoding
    return bytes


def request(port: int, path: str, method: str = "GET", more: str = "") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://x\r\nAccept-Encoding: {ENCODINGS}\r\n"
    )
    sock.sendall(f"{head}{more}\r\n".encode())
    return sock


def check(server: uvicorn.Server, port: int, index: int, app: FastAPI) -> dict[str, Any]:
    """What becomes of a stream of this app; nothing but the way it goes may depend on the middleware."""
    hub: Hub = app.state.hub
    began = time.monotonic()
    with request(port, f"/{index}/events") as sock:
        body = Body(sock)
        body.read_until(b"retry: ")
        took = time.monotonic() - began
        hub.publish("t", {"n": 1})
        body.read_until(b'{"n":1}\n\n')
        assert BODY.fullmatch(body.content), body.content
        (subscriber,) = hub.subscribers()
        path = subscriber.path
        if path == "reactor":  # the request is over, for the server and all middleware
            until(lambda: not server.server_state.tasks, "the request does not end")
        until(lambda: len(app.state.closed) == 1, "the dependency is held")
        subscriber.close()
        body.read_to_end()
        assert BODY.fullmatch(body.content), body.content
        if path == "loop":
            sock.sendall(
                f"GET /{index}/plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b""
            while data := sock.recv(65536):
                answer += data
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            assert answer.endswith(b'{"plain":"' + b"x" * 3000 + b'"}')
    with request(port, f"/{index}/events", "POST", "Content-Length: 0\r\n") as sock:
        Body(sock).read_until(b"retry: ")  # and leaves
    until(lambda: hub.count() == 0, "a client that left is not noticed")
    stayed = hub.stats()["stayed"]
    return {"path": path, "stayed": stayed, "seconds": took, "coding": check_compressed(port, index, hub)}


def check_compressed(port: int, index: int, hub: Hub) -> str:
    """The coding of a stream that the hub may compress, which decodes all the same."""
    with request(port, f"/{index}/events?compress=1") as sock:
        body = Body(sock)
        body.read_until(b"retry: ")
        hub.publish("t", {"n": 1})
        body.read_until(b'{"n":1}\n\n')
        hub.subscribers()[0].close()
        body.read_to_end()
        assert BODY.fullmatch(body.content), body.content
    return body.coding


def main(group: str) -> None:
    if group == "sentry":
        sentry()
    elif group == "newrelic":
        newrelic()
    complaints = Complaints()
    for name in ("uvicorn.error", "asyncio", "sse_hub"):
        logging.getLogger(name).addHandler(complaints)
    apps = {name: build(name, install) for name, install in GROUPS[group].items()}
    served = list(apps.values())

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        index, _, path = scope["path"][1:].partition("/")
        scope["path"] = f"/{path}"
        await served[int(index)](scope, receive, send)

    config = uvicorn.Config(dispatch, port=0, log_config=None, lifespan="off")
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started, "the server does not start")
    try:
        for index, (name, app) in enumerate(apps.items()):
            result = check(server, listener.getsockname()[1], index, app)
            print(json.dumps({"name": name, **result}), flush=True)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not complaints.messages, complaints.messages
    sys.stdout.flush()
    os._exit(0)  # agents may want to say goodbye to servers that are not there


if __name__ == "__main__":
    main(sys.argv[1])
